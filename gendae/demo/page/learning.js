// Difference target propagation (Lee et al. 2015) on a small classifier: each layer learns alone.
//
//   h^_L = h_L - step dL/dh_L
//   h^_{l-1} = h_{l-1} + g_l(h^_l) - g_l(h_l)
//   f_l: |f_l(h_{l-1}) - h^_l|^2 / (2 step),   g_l: |g_l(f_l(h_{l-1} + e)) - (h_{l-1} + e)|^2

import {softmax} from "gendae/arrays.js";

/** A layer of tanh or linear units that learns from the derivative of its own loss alone. */
export class Learner {
  constructor(weight, bias, linear = false) {
    this.weight = weight; // rows of Float64Array
    this.bias = bias;
    this.linear = linear;
    this.moments = null;
  }

  static random(inputs, outputs, random, linear = false) {
    const scale = 1 / Math.sqrt(inputs);
    const row = () => Float64Array.from({length: inputs}, () => scale * random.normal());
    return new Learner(Array.from({length: outputs}, row), new Float64Array(outputs), linear);
  }

  apply(h) {
    return Float64Array.from(this.weight, (row, i) => {
      let a = this.bias[i];
      for (let j = 0; j < row.length; j++) a += row[j] * h[j];
      return this.linear ? a : Math.tanh(a);
    });
  }

  /** dLoss/dW and dLoss/db of a batch, from inputs, outputs and dLoss/doutput of each. */
  gradient(inputs, outputs, slopes) {
    const weight = this.weight.map((row) => new Float64Array(row.length));
    const bias = new Float64Array(this.bias.length);

    inputs.forEach((h, n) => {
      for (let i = 0; i < bias.length; i++) {
        const s = this.linear ? 1 : 1 - outputs[n][i] ** 2;
        const slope = slopes[n][i] * s;
        bias[i] += slope;
        for (let j = 0; j < h.length; j++) weight[i][j] += slope * h[j];
      }
    });

    return {weight, bias};
  }

  /** One step of Adam. */
  learn({weight, bias}, rate) {
    const rows = [...this.weight, this.bias];
    const gradients = [...weight, bias];
    this.moments ??= {
      t: 0,
      first: rows.map((row) => new Float64Array(row.length)),
      second: rows.map((row) => new Float64Array(row.length)),
    };

    this.moments.t += 1;
    const {t, first, second} = this.moments;
    const scale = rate / (1 - 0.9 ** t);
    const whole = Math.sqrt(1 - 0.999 ** t);
    rows.forEach((row, i) => {
      for (let j = 0; j < row.length; j++) {
        const g = gradients[i][j];
        first[i][j] += 0.1 * (g - first[i][j]);
        second[i][j] += 0.001 * (g * g - second[i][j]);
        row[j] -= (scale * first[i][j]) / (Math.sqrt(second[i][j]) / whole + 1e-8);
      }
    });
  }
}

export class TargetNetwork {
  /** f: L layers; g: the inverses of f_2 .. f_L; output: the layer of logits. */
  constructor({f, g, output, step = 0.1}) {
    Object.assign(this, {f, g, output, step});
  }

  static random(sizes, classes, random) {
    const f = [];
    const g = [];
    for (let l = 1; l < sizes.length; l++) {
      f.push(Learner.random(sizes[l - 1], sizes[l], random));
      if (l > 1) g.push(Learner.random(sizes[l], sizes[l - 1], random));
    }
    return new TargetNetwork({f, g, output: Learner.random(sizes.at(-1), classes, random, true)});
  }

  /** h_0 .. h_L. */
  up(x) {
    const h = [x];
    for (const f of this.f) h.push(f.apply(h.at(-1)));
    return h;
  }

  predict(x) {
    return softmax(this.output.apply(this.up(x).at(-1)));
  }

  /** Of one example: h_0 .. h_L, displacements h^_l - h_l of l = 1 .. L, dL/dlogits and L. */
  targets(x, y) {
    const h = this.up(x);
    const p = softmax(this.output.apply(h.at(-1)));
    const slopes = Float64Array.from(p, (value, k) => value - (k === y ? 1 : 0));

    const top = new Float64Array(h.at(-1).length);
    this.output.weight.forEach((row, k) => {
      for (let j = 0; j < top.length; j++) top[j] -= this.step * slopes[k] * row[j];
    });

    const d = [top];
    for (let l = this.f.length; l > 1; l--) {
      const g = this.g[l - 2];
      const target = h[l].map((value, i) => value + d[0][i]);
      const from = g.apply(h[l]);
      d.unshift(g.apply(target).map((value, i) => value - from[i]));
    }

    return {h, d, slopes, loss: -Math.log(p[y])};
  }

  /** Local losses of a batch, and the gradient of each for its own layer. */
  losses(xs, ys, noise) {
    const all = xs.map((x, n) => this.targets(x, ys[n]));
    const count = xs.length;
    const losses = {};
    const gradients = [];

    this.f.forEach((f, i) => {
      const inputs = all.map(({h}) => h[i]);
      const outputs = all.map(({h}) => h[i + 1]);
      const moves = all.map(({d}) => d[i]);
      losses[`f_${i + 1}`] = sumOfSquares(moves) / count / (2 * this.step);
      const slopes = moves.map((move) => move.map((value) => -value / this.step / count));
      gradients.push([f, f.gradient(inputs, outputs, slopes)]);
    });

    const tops = all.map(({h}) => h.at(-1));
    const slopes = all.map((one) => one.slopes.map((value) => value / count));
    losses.label = all.reduce((sum, one) => sum + one.loss, 0) / count;
    gradients.push([this.output, this.output.gradient(tops, tops, slopes)]);

    this.g.forEach((g, i) => {
      const noisy = all.map(({h}, n) => h[i + 1].map((value, j) => value + noise(n, i, j)));
      const above = noisy.map((h) => this.f[i + 1].apply(h));
      const again = above.map((h) => g.apply(h));
      const missed = again.map((h, n) => h.map((value, j) => value - noisy[n][j]));
      losses[`g_${i + 2}`] = sumOfSquares(missed) / count;
      const slopes = missed.map((row) => row.map((value) => (2 * value) / count));
      gradients.push([g, g.gradient(above, again, slopes)]);
    });

    return {losses, gradients};
  }

  /** One update of all layers; their losses before it. */
  learn(xs, ys, random, {rate, sigma}) {
    const {losses, gradients} = this.losses(xs, ys, () => sigma * random.normal());
    for (const [layer, gradient] of gradients) layer.learn(gradient, rate);
    return losses;
  }
}

function sumOfSquares(rows) {
  return rows.reduce((sum, row) => sum + row.reduce((part, value) => part + value * value, 0), 0);
}

/** Points of two moons, and to which they belong. */
export function moons(n, random) {
  const xs = [];
  const ys = [];
  for (let i = 0; i < n; i++) {
    const y = i % 2;
    const angle = Math.PI * random.uniform();
    const x = y ? 1 - Math.cos(angle) : Math.cos(angle);
    const height = y ? 0.5 - Math.sin(angle) : Math.sin(angle);
    xs.push([x - 0.5 + 0.1 * random.normal(), height - 0.25 + 0.1 * random.normal()]);
    ys.push(y);
  }
  return {xs, ys};
}
