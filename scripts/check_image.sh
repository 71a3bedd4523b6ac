#!/bin/sh
# Runs every step of the Dockerfile without Docker and without its registry, and the image as Kubernetes would:
#   sudo scripts/check_image.sh WORK_FOLDER
# As root on Debian, with buildah, debootstrap and util-linux. The base image is replaced by Debian's own minimal system with its Python, made in
# WORK_FOLDER/base (kept for the next time). Packages come from Debian and PyPI; what runs from the image has no network at all.
set -eu
work=$(realpath "$1"); root=$(realpath "$(dirname "$0")/.."); base=localhost/python-base
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs

[ -x "$work/base/usr/bin/python3" ] ||
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" http://deb.debian.org/debian
buildah images -q "$base" 2>/dev/null | grep -q . || {
  container=$(buildah from scratch)
  buildah copy -q "$container" "$work/base" / > /dev/null
  buildah commit -q "$container" "$base" > /dev/null
  buildah rm "$container" > /dev/null
}

# the certificates of this machine, for where its network needs its own
build() {
  buildah bud -q --pull-never --layers --build-arg PYTHON="$base" --volume /etc/ssl/certs:/etc/ssl/certs:ro "$@" "$root" > /dev/null
}

# run IMAGE COMMAND...: user 10001, read-only root, /tmp, /state and /data to write, no network but its own loopback
run() {
  image=$1; shift
  container=$(buildah from --pull-never "$image")
  place=$(buildah mount "$container")
  mkdir -p "$work/state" "$work/data"; chown -R 10001:10001 "$work/state" "$work/data"
  status=0
  unshare --mount --net --pid --fork sh -eu -c '
    place=$1; work=$2; shift 2
    ip link set lo up 2>/dev/null || true
    mount --bind "$place" "$place"; mount -o remount,ro,bind "$place"
    mount -t proc proc "$place/proc"; mount -t tmpfs tmpfs "$place/tmp"; mount --bind /dev "$place/dev"
    mount --bind "$work/state" "$place/state"; mount --bind "$work/data" "$place/data"
    cd "$place"
    exec chroot --userspec=10001:10001 "$place" env -i PATH=/opt/segmae/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 "$@"
  ' sh "$place" "$work" "$@" || status=$?
  buildah umount "$container" > /dev/null; buildah rm "$container" > /dev/null
  return $status
}

build -t localhost/segmae
build -t localhost/segmae-batch --build-arg EXTRAS=batch,s3
for image in segmae segmae-batch; do
  buildah inspect --type image --format "$image: user {{.OCIv1.Config.User}}, {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}" "localhost/$image"
done

echo "== the image's root cannot be written, and there is no network"
run segmae sh -c 'id -u; ! touch /opt/segmae/x 2>/dev/null; ! python3 -c "import torch" 2>/dev/null
  ! python3 -c "import socket; socket.create_connection((\"1.1.1.1\", 53), 2)" 2>/dev/null'

echo "== the service"
rm -rf "$work/state" "$work/data"
run segmae sh -c '
  segmae serve --new-key --state /state > /tmp/key
  python3 -c "from PIL import Image; from segmae.data.phantom import draw_lesion; Image.fromarray(draw_lesion(1)[0]).save(\"/data/lesion.jpg\")"
  segmae serve --host 0.0.0.0 --port 8000 --state /state --threads 1 > /tmp/log 2>&1 & server=$!
  python3 - <<END
import time, urllib.error, urllib.request
from pathlib import Path
from segmae.client import Client
for _ in range(600):
    try:
        urllib.request.urlopen("http://127.0.0.1:8000/ready", timeout=5); break
    except OSError:
        time.sleep(.5)
else:
    raise SystemExit(Path("/tmp/log").read_text())
key = next(word for word in Path("/tmp/key").read_text().split() if word.startswith("segmae_"))
found = Client("http://127.0.0.1:8000", key=key).segment("/data/lesion.jpg")
print("lesion share", found["lesion_share"])
for path in ("health", "ready"):
    print(path, urllib.request.urlopen(f"http://127.0.0.1:8000/{path}").status)
try:
    urllib.request.urlopen("http://127.0.0.1:8000/v1/models"); raise SystemExit("open without a key")
except urllib.error.HTTPError as error:
    print("without a key", error.code)
END
  kill -TERM $server; wait $server || echo "ended with $?"'

echo "== a batch"
run segmae-batch sh -c '
  python3 -c "from segmae.data.phantom import write_dataset; write_dataset(\"/data/photographs\", 5)"
  for part in 1/2 2/2; do segmae predict /data/photographs/images -o /data/out --engine-cluster local --part $part --shard-size 2 --measure; done
  test -f /data/out/done.json && ls /data/out/shards'
