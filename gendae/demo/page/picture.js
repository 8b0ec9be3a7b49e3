// Pictures on canvases, in the page's own ink and paper.

/** A colour of the style sheet as [red, green, blue]. */
export function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}

/** The colour as CSS takes it. */
export function css(name, alpha = 1) {
  return `rgb(${colour(name).join(" ")} / ${alpha})`;
}

/** Grey values x in [0, 1] into a canvas, one pixel each; pixels that the mask hides are tinted. */
export function drawPixels(canvas, x, [height, width], mask = null) {
  canvas.width = width;
  canvas.height = height;
  canvas.style.aspectRatio = `${width} / ${height}`;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);

  const paper = colour("paper");
  const ink = colour("ink");
  const missing = colour("missing");

  for (let i = 0; i < width * height; i++) {
    const hidden = mask !== null && !mask[i];
    const ground = hidden ? missing : paper;
    const value = hidden ? 0 : Math.min(1, Math.max(0, x[i]));
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = ground[k] + value * (ink[k] - ground[k]);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Bars of values in [0, 1], with the largest marked. */
export function drawBars(list, values) {
  const best = values.indexOf(Math.max(...values));
  [...list.children].forEach((item, k) => {
    item.style.setProperty("--share", values[k]);
    item.classList.toggle("best", k === best);
    item.querySelector("output").textContent = `${(100 * values[k]).toFixed(1)} %`;
  });
}

/** A plane of points: a canvas with coordinates from -extent to extent. */
export class Plane {
  constructor(canvas, extent) {
    this.canvas = canvas;
    this.extent = extent;
    this.context = canvas.getContext("2d");
  }

  get size() {
    return this.canvas.width;
  }

  clear() {
    this.context.clearRect(0, 0, this.size, this.size);
  }

  /** Pixels of a point. */
  place([x, y]) {
    const scale = this.size / (2 * this.extent);
    return [(x + this.extent) * scale, (this.extent - y) * scale];
  }

  /** The point of a click. */
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const u = (event.clientX - box.left) / box.width;
    const v = (event.clientY - box.top) / box.height;
    return [(2 * u - 1) * this.extent, (1 - 2 * v) * this.extent];
  }

  dot(point, name, radius = 3, alpha = 1) {
    const [u, v] = this.place(point);
    this.context.fillStyle = css(name, alpha);
    this.context.beginPath();
    this.context.arc(u, v, radius, 0, 2 * Math.PI);
    this.context.fill();
  }

  line(points, name, alpha = 1) {
    this.context.strokeStyle = css(name, alpha);
    this.context.beginPath();
    for (const point of points) this.context.lineTo(...this.place(point));
    this.context.stroke();
  }

  arrow(from, to, name) {
    this.line([from, to], name);
    this.dot(to, name, 2);
  }
}
