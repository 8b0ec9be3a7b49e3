// An image and its label under one joint layer (Bengio 2014, sections 3 and 4).

import {concatenate, softmax, unpack} from "gendae/arrays.js";
import {ACTIVATIONS, chain} from "gendae/layers.js";

export class Joint {
  constructor({name, shape, image, junction, activation, widths, noise}) {
    this.name = name;
    this.shape = shape;
    this.image = {f: chain(image.f), g: chain(image.g)};
    this.junction = {f: chain(junction.f), g: chain(junction.g)};
    this.s = ACTIVATIONS[activation]; // of the code's units
    [this.code, this.classes] = widths;

    this.entering = unpack(noise.entering).data;
    this.passing = unpack(noise.passing).data;
    this.rest = unpack(noise.rest).data;
  }

  /** The joint code of an image's code and a label; what is null is missing, and f is told. */
  up(code, label) {
    return this.junction.f(
      concatenate(
        code ?? new Float32Array(this.code),
        label ?? new Float32Array(this.classes),
        Float32Array.of(code === null ? 0 : 1, label === null ? 0 : 1),
      ),
    );
  }

  /** An image's code and the probabilities of labels, from the joint code. */
  down(top) {
    const both = this.junction.g(top);
    return {code: both.slice(0, this.code).map(this.s), label: softmax(both.slice(this.code))};
  }

  /** Probabilities of the labels of an image, in one pass. */
  predict(x) {
    return this.down(this.up(this.image.f(x), null)).label;
  }

  /** Images of a class: a chain over the code while the label stays, from noisy to still. */
  *images(label, random, {rounds}) {
    let code = this.down(this.up(null, label)).code;
    yield this.image.g(code);

    for (let round = 0; round < rounds; round++) {
      const temperature = Math.max(0, 1 - round / (0.75 * rounds));
      code = this.round(code, label, random, temperature);
      yield this.image.g(code);
    }
  }

  /** Up to the joint code and down again, with noise by the temperature. */
  round(code, label, random, temperature) {
    const noisy = disturbed(code, this.entering, Math.SQRT2 * temperature, random);
    const top = disturbed(this.up(noisy, label), this.passing, Math.SQRT2 * temperature, random);
    return disturbed(this.down(top).code, this.rest, temperature, random);
  }
}

/** h with noise of these widths, one a unit, times a scale. */
function disturbed(h, widths, scale, random) {
  if (scale === 0) return h;
  return h.map((value, i) => value + scale * widths[i] * random.normal());
}

/** The row of a class: 1 in its place. */
export function oneHot(k, classes) {
  return Float32Array.from({length: classes}, (_, i) => (i === k ? 1 : 0));
}
