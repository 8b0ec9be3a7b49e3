// The page: each section begins when its model is there.

import {find, showNumbers} from "gendae/controls.js";
import {fillIn} from "gendae/section-fill.js";
import {label} from "gendae/section-label.js";
import {learn} from "gendae/section-learn.js";
import {samples} from "gendae/section-samples.js";
import {toy} from "gendae/section-toy.js";
import {loadModel} from "gendae/models.js";
import {Joint} from "gendae/joint.js";
import {Stack} from "gendae/stack.js";

async function begin() {
  showNumbers();
  learn();

  const images = new Stack(await loadModel("images"));
  fillIn(images);
  samples(images);

  toy(new Stack(await loadModel("toy")));
  label(new Joint(await loadModel("joint")));
  document.documentElement.dataset.ready = "true";
}

begin().catch((error) => {
  find("trouble").textContent = `Something is missing: ${error.message}.`;
});
