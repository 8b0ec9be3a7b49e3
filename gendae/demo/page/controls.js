// Parts of the page: sliders, buttons, and loops that run one step a frame.

export const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

export function find(name) {
  return document.getElementById(name);
}

/** The number of a slider. */
export function number(name) {
  return Number(find(name).value);
}

/** Show the numbers of all sliders beside them. */
export function showNumbers() {
  for (const slider of document.querySelectorAll("input[type=range]")) {
    const output = document.querySelector(`output[for=${slider.id}]`);
    const show = () => (output.textContent = slider.value);
    slider.addEventListener("input", show);
    show();
  }
}

export function on(name, event, action) {
  find(name).addEventListener(event, action);
}

/** One step of a generator a frame, until it ends or another loop takes its place. */
export class Loop {
  constructor() {
    this.steps = null;
  }

  get runs() {
    return this.steps !== null;
  }

  stop() {
    this.steps = null;
  }

  /** `show` gets what each step yields; `ended` is called at the end. */
  run(steps, show, ended = () => {}) {
    this.steps = steps;
    const frame = () => {
      if (this.steps !== steps) return;

      const {value, done} = steps.next();
      if (done) {
        this.steps = null;
        ended();
        return;
      }
      show(value);
      requestAnimationFrame(frame);
    };
    frame();
  }
}

/** The first n values of a generator. */
export function* first(n, values) {
  for (let i = 0; i < n; i++) {
    const {value, done} = values.next();
    if (done) return;
    yield value;
  }
}

/** The last value of a generator that ends. */
export function last(values) {
  let value = null;
  for (value of values);
  return value;
}
