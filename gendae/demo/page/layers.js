// Layers h -> s(W h + b), and chains of them: the maps f_l and g_l.

import {unpack} from "gendae/arrays.js";

export const ACTIVATIONS = {
  linear: (a) => a,
  relu: (a) => Math.max(a, 0),
  tanh: (a) => Math.tanh(a),
  sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  softplus: (a) => (a > 20 ? a : Math.log1p(Math.exp(a))),
};

/** One affine layer. */
export class Affine {
  constructor({weight, bias, activation}) {
    this.weight = unpack(weight);
    this.bias = unpack(bias).data;
    this.s = ACTIVATIONS[activation];
    [this.outputs, this.inputs] = this.weight.shape;
  }

  apply(h) {
    const out = new Float32Array(this.outputs);
    for (let i = 0; i < this.outputs; i++) out[i] = this.s(this.bias[i] + this.product(i, h));
    return out;
  }

  /** Row i of W times h, in four sums that the processor adds side by side. */
  product(i, h) {
    const w = this.weight.data;
    const n = this.inputs;
    const row = i * n;

    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    let j = 0;
    for (; j + 3 < n; j += 4) {
      a += w[row + j] * h[j];
      b += w[row + j + 1] * h[j + 1];
      c += w[row + j + 2] * h[j + 2];
      d += w[row + j + 3] * h[j + 3];
    }
    for (; j < n; j++) a += w[row + j] * h[j];

    return a + b + (c + d);
  }
}

/** Layers one after the other, as one function. */
export function chain(parts) {
  const layers = parts.map((part) => new Affine(part));
  return (h) => layers.reduce((input, layer) => layer.apply(input), h);
}
