// One frame of the stage: photograph, map or contour, scale line, pointer. It knows nothing of events.

const CYAN = "#00e5ff";
const HALO = "rgb(0 0 0 / .55)";

/** Polygons of the service as one path in the photograph's pixels. */
export function pathOf(polygons) {
  const path = new Path2D();
  for (const { outer, holes } of polygons) {
    for (const ring of [outer, ...holes]) {
      ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
    }
  }
  return path;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Viewport} viewport
 * @param {object} scene picture {bitmap, width, height}; shown (overlay at all); opacity 0-1; path; map and mask (canvases);
 *   swipe 0-1 or null; line {from, to, label} or null; pointer {x, y, radius} or null
 */
export function draw(context, viewport, scene, ratio) {
  const { window, scale, x, y } = viewport;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, window.width, window.height);
  if (!scene.picture) return;
  const { bitmap, width, height } = scene.picture;
  const toPicture = () => context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
  toPicture();
  context.imageSmoothingEnabled = scale < 4; // closer, the pixels themselves are wanted
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  context.save();
  if (scene.swipe !== null) {
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.beginPath();
    context.rect(window.width * scene.swipe, 0, window.width, window.height);
    context.clip();
    toPicture();
  }
  if (scene.shown) drawOverlay(context, scene, width, height, scale);
  context.restore();
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (scene.line) drawLine(context, viewport, scene.line);
  if (scene.pointer) drawPointer(context, viewport, scene.pointer);
}

function drawOverlay(context, scene, width, height, scale) {
  const { map, mask, path } = scene;
  context.globalAlpha = scene.opacity;
  if (map) {
    context.imageSmoothingEnabled = true;
    context.drawImage(map, 0, 0, width, height);
  } else if (mask) {
    context.drawImage(mask, 0, 0, width, height);
  } else if (path && scene.opacity) {
    context.fillStyle = CYAN;
    context.fill(path, "evenodd");
  }
  context.globalAlpha = 1;
  if (!path) return;
  context.lineJoin = "round";
  for (const [style, thick] of [[HALO, 4.5], [CYAN, 2.2]]) {
    context.strokeStyle = style;
    context.lineWidth = thick / scale;
    context.stroke(path);
  }
}

function drawLine(context, viewport, { from, to, label }) {
  const a = viewport.toWindow(from), b = viewport.toWindow(to);
  const long = Math.hypot(b.x - a.x, b.y - a.y) || 1;
  const tick = { x: (-(b.y - a.y) / long) * 7, y: ((b.x - a.x) / long) * 7 };
  context.lineCap = "round";
  for (const [style, thick] of [[HALO, 5], ["#fff", 2]]) {
    context.strokeStyle = style;
    context.lineWidth = thick;
    context.beginPath();
    context.moveTo(a.x, a.y);
    context.lineTo(b.x, b.y);
    for (const end of [a, b]) {
      context.moveTo(end.x - tick.x, end.y - tick.y);
      context.lineTo(end.x + tick.x, end.y + tick.y);
    }
    context.stroke();
  }
  if (!label) return;
  context.font = "600 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  const middle = { x: (a.x + b.x) / 2 + tick.x * 2.6, y: (a.y + b.y) / 2 + tick.y * 2.6 };
  const half = context.measureText(label).width / 2 + 7;
  context.fillStyle = "rgb(0 0 0 / .7)";
  context.beginPath();
  context.roundRect(middle.x - half, middle.y - 11, 2 * half, 22, 6);
  context.fill();
  context.fillStyle = "#fff";
  context.fillText(label, middle.x, middle.y);
}

function drawPointer(context, viewport, { x, y, radius, active }) {
  const at = viewport.toWindow({ x, y });
  const size = radius ? radius * viewport.scale : 9;
  for (const [style, thick] of [[HALO, 3.5], [active ? CYAN : "#fff", 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = thick;
    context.beginPath();
    context.arc(at.x, at.y, size, 0, 2 * Math.PI);
    if (!radius) {
      context.moveTo(at.x - 14, at.y);
      context.lineTo(at.x + 14, at.y);
      context.moveTo(at.x, at.y - 14);
      context.lineTo(at.x, at.y + 14);
    }
    context.stroke();
  }
}
