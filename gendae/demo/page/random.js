// Pseudo-random numbers that a seed determines: xorshift of a counter (mulberry32), Box and Muller.

export class Random {
  constructor(seed) {
    this.state = seed >>> 0;
  }

  /** Uniform in [0, 1). */
  uniform() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  /** N(0, 1). */
  normal() {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  uniforms(n) {
    return Float32Array.from({length: n}, () => this.uniform());
  }

  normals(n) {
    return Float32Array.from({length: n}, () => this.normal());
  }

  /** A whole number below n. */
  below(n) {
    return Math.floor(this.uniform() * n);
  }
}
