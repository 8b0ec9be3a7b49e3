"""Public names without a case in the tables of contracts, and why."""

EXEMPT = {
    # base classes: their variants have the cases
    "corruption.Corruption": "base class", "conditionals.Conditional": "base class", "priors.core.Prior": "base class",
    "inference.Inference": "base class", "sampling.Sampler": "base class",
    # what functions return
    "clamping.Completion": "a result", "completion.Values": "a result", "diagnostics.Spectrum": "a result",
    "neighbours.Manifold": "a result", "credit.Angles": "a result", "credit.Improvement": "a result",
    "priors.factorial.Block": "a slice with a name", "bounds.NoDensityError": "an exception",
    # names, numbers and objects that are looked up or made: no batch goes in
    "optimized.code_range": "looks up an interval by name", "sampling.seeded": "makes a generator",
    "sampling.default_corruption": "makes noise objects", "sampling.corruption_of_each": "counts noise objects",
    "sampling.sampler_named": "looks up a sampler by name", "joint.noise_of_all_but_labels": "makes noise objects",
    "joint.check_modalities": "compares two lists of names; its data have tests of their own",
    "joint.images_of": "looks up a slice by name", "clamping.laws_of": "looks up laws",
    "clamping.drawn": "asks a law for its kind", "clamping.chain_noise": "looks up a number",
    "diagnostics.report_lines": "text", "inpainting.named_mask": "makes a mask from a name",
    "metrics.sigma_grid": "looks up numbers by name", "bounds.require_density": "asks laws for their kind",
    "bounds.of_bits": "asks a law for its kind", "credit.supervised": "asks a rule for its kind",
    "modalities.Junction": "a description that JointStack turns into a pair",
    "models.layer": "makes a layer; deep_autoencoder calls it",
    # files and data sets
    "features.save_feature_classifier": "writes a file", "features.shipped_feature_classifiers": "lists files",
    "features.load_feature_classifier": "reads a file", "features.ClassifierTraining": "a Trainer's shell",
    "persistence.load": "reads a file", "persistence.save": "writes a file",
    "persistence.pretrained_classifier": "reads a file",
    "data.MNIST": "a data set", "data.Digits": "a data set", "data.Images": "a data set", "toys.Toys2D": "a data set",
    "shards.Shards": "a data set",
    "multimodal.Multimodal": "a data set", "multimodal.Arrays": "a data set",
}
