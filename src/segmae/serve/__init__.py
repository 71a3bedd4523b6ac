"""The service: one model in memory behind HTTP, and the web page that uses it.

    settings    every limit and its default
    problems    what is answered where a request cannot be served
    connections how many there may be, and for how long without a request
    logs        JSON lines on stderr, also for what uvicorn and asyncio say
    guard       what every request passes: size, origin, key, rate, headers, log
    keys        API keys, stored as hashes
    uploads     multipart bodies to files and options
    engine      requests gathered into batches for the network
    work        a photograph to its result, off the event loop
    answers     a result as JSON, PNG or DICOM SEG
    jobs        batches that survive the end of the process
    metrics     what Prometheus reads
    page/       the web page: no build step, nothing from elsewhere

FastAPI and what belongs to it come with the extra `serve`.
"""
