// The deep generative model: pairs (f_l, g_l) under a prior P(h_L).

import {add, unpack} from "gendae/arrays.js";
import {Affine, chain} from "gendae/layers.js";

/** N(mean, R' R). */
class GaussianPrior {
  constructor({mean, root}) {
    this.mean = unpack(mean).data;
    const {shape, data} = unpack(root);
    this.root = {shape, data};
  }

  sample(random) {
    const [rows, columns] = this.root.shape;
    const h = Float32Array.from(this.mean);
    for (let i = 0; i < rows; i++) {
      const z = random.normal();
      for (let j = 0; j < columns; j++) h[j] += z * this.root.data[i * columns + j];
    }
    return h;
  }
}

/** Stored codes with noise of one width around them. */
class CodesPrior {
  constructor({codes, width}) {
    const {shape, data} = unpack(codes);
    [this.count, this.size] = shape;
    this.codes = data;
    this.width = width;
  }

  sample(random) {
    const start = random.below(this.count) * this.size;
    const code = this.codes.slice(start, start + this.size);
    return add(code, random.normals(this.size), this.width);
  }
}

const PRIORS = {gaussian: GaussianPrior, codes: CodesPrior};

export class Stack {
  constructor({name, kind, shape, pairs, prior, law, rounds}) {
    this.name = name;
    this.kind = kind;
    this.shape = shape;
    this.law = law; // of x around g_1(h_1)
    this.rounds = rounds; // of its sampler
    this.pairs = pairs.map(({f, g}) => ({f: chain(f), g: chain(g)}));
    this.width = new Affine(pairs[0].f[0]).inputs;
    this.prior = new PRIORS[prior.kind](prior);
  }

  /** L. */
  get depth() {
    return this.pairs.length;
  }

  /** h_start .. h_L. */
  up(h, start = 0) {
    const path = [h];
    for (const {f} of this.pairs.slice(start)) path.push(f(path.at(-1)));
    return path;
  }

  /** h_stop .. h_start, decoded from h_start; from the top by default. */
  down(h, start = this.depth, stop = 0) {
    const path = [h];
    for (const {g} of this.pairs.slice(stop, start).reverse()) path.unshift(g(path[0]));
    return path;
  }

  /** x up to the top and down again. */
  reconstruct(x) {
    return this.down(this.up(x).at(-1))[0];
  }
}
