// Arrays of a model: base64 of single-precision numbers, or of bytes with one scale a row.

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function floats(text) {
  return new Float32Array(bytes(text).buffer);
}

/** A matrix by rows, or a vector: {shape, data}. */
export function unpack({shape, bits, data, scale}) {
  if (bits === 32) return {shape, data: floats(data)};

  const [rows, columns] = shape;
  const whole = new Int8Array(bytes(data).buffer);
  const scales = floats(scale);

  const values = new Float32Array(whole.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) values[i * columns + j] = whole[i * columns + j] * scales[i];
  }

  return {shape, data: values};
}

/** a + t (b - a), element by element. */
export function lerp(a, b, t) {
  return a.map((value, i) => value + t * (b[i] - value));
}

/** a + t b, element by element. */
export function add(a, b, t = 1) {
  return a.map((value, i) => value + t * b[i]);
}

/** x where the mask is true, the other elsewhere. */
export function fill(x, mask, other) {
  return x.map((value, i) => (mask[i] ? value : other[i]));
}

export function concatenate(...parts) {
  const whole = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
  let start = 0;
  for (const part of parts) {
    whole.set(part, start);
    start += part.length;
  }
  return whole;
}

export function softmax(a) {
  const top = Math.max(...a);
  const powers = a.map((value) => Math.exp(value - top));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}
