// INFERENCE of Bengio et al. 2015, Algorithm 2: moves made of activations going up and down only.
//
//   h_L <- h_L + delta (f_L(h_{L-1}) - f_L(g_L(h_L)))
//   h_l <- h_l + delta (f_l(h_{l-1}) - f_l(g_l(h_l))) + alpha (g_{l+1}(h_{l+1}) - h_l)

import {add, fill, lerp} from "gendae/arrays.js";

/** The feed-forward guess of h_0 .. h_L, and then one move of all layers at a time, without end. */
export function* inference(stack, x, mask, {delta, alpha, temperature = 0, random = null}) {
  const {pairs, depth} = stack;
  let h = stack.up(x);
  yield h;

  while (true) {
    const moved = [...h];
    let above = null; // g_{l+1}(h_{l+1}), of the layer that has just moved

    for (let level = depth; level > 0; level--) {
      const {f, g} = pairs[level - 1];
      const below = g(h[level]);
      const seen = level > 1 || mask === null ? h[level - 1] : fill(x, mask, below);

      let next = h[level];
      if (above !== null) next = lerp(next, above, alpha);
      next = add(add(next, f(seen), delta), f(below), -delta);
      if (temperature > 0) {
        next = add(next, random.normals(next.length), Math.sqrt(2 * delta * temperature));
      }

      moved[level] = next;
      above = level > 1 ? g(next) : null;
    }

    h = moved;
    yield h;
  }
}

/** Missing pixels filled in: x after 0, 1, .. moves under the clamp (Figure 5). */
export function* completion(stack, x, mask, start, options) {
  const begun = fill(x, mask, start);
  let first = true;

  for (const h of inference(stack, begun, mask, options)) {
    yield first ? begun : fill(x, mask, stack.pairs[0].g(h[1]));
    first = false;
  }
}

/** Draws of the model, decoded: where chains may start. */
export function* draws(stack, random) {
  while (true) yield stack.down(stack.prior.sample(random))[0];
}

/** The draw under which the observed pixels are likeliest, each draw with its own law of x. */
export function likeliest(some, x, mask, law) {
  const scores = some.map((mean) => LOG_PROBS[law](x, mean, mask));
  return some[scores.indexOf(Math.max(...scores))];
}

const LOG_PROBS = {
  Gaussian: (x, mean, mask) => sum(mask, (i) => -0.5 * (x[i] - mean[i]) ** 2),
  Bernoulli: (x, mean, mask) =>
    sum(mask, (i) => x[i] * bounded(mean[i]) + (1 - x[i]) * bounded(1 - mean[i])),
};

function sum(mask, term) {
  let total = 0;
  for (let i = 0; i < mask.length; i++) if (mask[i]) total += term(i);
  return total;
}

/** The logarithm of a probability that is not quite 0. */
function bounded(p) {
  return Math.log(Math.max(p, 1e-6));
}

/** Steps of INFERENCE in GENERATE (Algorithm 2). */
export const GENERATE = {steps: 15, delta: 0.1, alpha: 0.3};

/** GENERATE: a draw of the prior decoded, then K rounds of INFERENCE and x = g_1(h_1). */
export function* generation(stack, random, {rounds, steps, delta, alpha}) {
  let x = stack.down(stack.prior.sample(random))[0];
  yield x;

  for (let round = 0; round < rounds; round++) {
    const moves = inference(stack, x, null, {delta, alpha});
    let h = moves.next().value;
    for (let step = 0; step < steps; step++) h = moves.next().value;
    x = stack.pairs[0].g(h[1]);
    yield x;
  }
}

/** A chain over h_level: corrupt it by `sigma()`, go up and down again; x of each state. */
export function* levelChain(stack, level, random, sigma) {
  let h = stack.down(stack.prior.sample(random), stack.depth, level)[0];

  while (true) {
    yield stack.down(h, level)[0];
    if (level === stack.depth) {
      h = stack.prior.sample(random);
    } else {
      const noisy = add(h, random.normals(h.length), sigma());
      h = stack.down(stack.up(noisy, level).at(-1), stack.depth, level)[0];
    }
  }
}
