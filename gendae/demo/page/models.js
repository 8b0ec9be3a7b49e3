// Models come as scripts, which browsers load from files too.

const waiting = new Map();

/** The numbers of a model: images, joint or toy. */
export function loadModel(role) {
  if (!waiting.has(role)) waiting.set(role, load(role));
  return waiting.get(role);
}

function load(role) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `model-${role}.js`;
    script.onload = () => resolve(globalThis.gendaeModels[role]);
    script.onerror = () => reject(new Error(`the model ${script.src} could not be loaded`));
    document.head.append(script);
  });
}
