// A board to draw digits on, by pointer or keyboard.

import {drawPixels} from "gendae/picture.js";

const MOVES = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
};

export class Board {
  /** `changed` is called after each stroke; `mask` is true where something can be drawn. */
  constructor(canvas, shape, changed) {
    this.canvas = canvas;
    this.shape = shape;
    this.changed = changed;
    this.x = new Float32Array(shape[0] * shape[1]);
    this.mask = null;
    this.erases = false;
    this.cursor = null;
    this.last = null;

    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.follow(event));
    canvas.addEventListener("pointerup", () => this.end());
    canvas.addEventListener("pointercancel", () => this.end());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.leave());
    this.draw();
  }

  clear() {
    this.x.fill(0);
    this.draw();
    this.changed();
  }

  show(x) {
    this.x = Float32Array.from(x);
    this.draw();
    this.changed();
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.place(event);
    this.stroke(this.last);
    event.preventDefault();
  }

  follow(event) {
    if (this.last === null) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) this.stroke(this.place(each));
  }

  end() {
    if (this.last === null) return;
    this.last = null;
    this.changed();
  }

  /** Row and column under the pointer, with fractions. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const [height, width] = this.shape;
    const row = ((event.clientY - box.top) / box.height) * height;
    const column = ((event.clientX - box.left) / box.width) * width;
    return [row - 0.5, column - 0.5];
  }

  key(event) {
    const move = MOVES[event.key];
    if (move === undefined && event.key !== " " && event.key !== "Delete") return;
    event.preventDefault();

    const [height, width] = this.shape;
    this.cursor ??= [Math.floor(height / 4), Math.floor(width / 2)];
    if (move === undefined) {
      this.dab(this.cursor, event.key === "Delete");
      this.changed();
    } else {
      const [row, column] = this.cursor;
      const bounded = (value, most) => Math.min(most - 1, Math.max(0, value));
      this.cursor = [bounded(row + move[0], height), bounded(column + move[1], width)];
      if (event.shiftKey) {
        this.dab(this.cursor, false);
        this.changed();
      }
    }
    this.draw();
  }

  leave() {
    this.cursor = null;
    this.draw();
  }

  /** Dabs along the line from the last place to this one. */
  stroke(place) {
    const [row, column] = this.last;
    const length = Math.hypot(place[0] - row, place[1] - column);
    const dabs = Math.max(1, Math.ceil(2 * length));
    for (let i = 1; i <= dabs; i++) {
      const t = i / dabs;
      this.dab([row + t * (place[0] - row), column + t * (place[1] - column)], this.erases);
    }
    this.last = place;
    this.draw();
  }

  /** A round, soft spot, as wide as the strokes of the digits; or the removal of one. */
  dab([row, column], erases) {
    const [height, width] = this.shape;
    const radius = height / 18;
    for (let i = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        const k = i * width + j;
        if (this.mask !== null && !this.mask[k]) continue;

        const distance = Math.hypot(i - row, j - column);
        const value = Math.min(1, Math.max(0, radius + 0.5 - distance));
        this.x[k] = erases ? Math.min(this.x[k], 1 - value) : Math.max(this.x[k], value);
      }
    }
  }

  draw() {
    drawPixels(this.canvas, this.x, this.shape, this.mask);
    if (this.cursor === null) return;

    const context = this.canvas.getContext("2d");
    context.fillStyle = "rgb(255 120 0 / 0.7)";
    context.fillRect(Math.round(this.cursor[1]), Math.round(this.cursor[0]), 1, 1);
  }
}

/** Which pixels of an image are given: one half. */
export function half(name, [height, width]) {
  return Array.from({length: height * width}, (_, k) => {
    const row = Math.floor(k / width);
    const column = k % width;
    return {
      top: row < height / 2,
      bottom: row >= height / 2,
      left: column < width / 2,
      right: column >= width / 2,
    }[name];
  });
}
