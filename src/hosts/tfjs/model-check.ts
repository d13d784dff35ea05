import { DeepSpeedError } from '../../errors.ts';
import { isSynchronised } from './batch-norm.ts';
import type { Layer, LayersModel } from './library.ts';
import { nameOf, type OwnFunction } from './own-functions.ts';

/** Metrics of TensorFlow.js that are no means over rows. */
const notMeans = new Set(['precision', 'recall', 'r2Score', 'f1Score']);

/** What a model's structure says about splitting its batches. */
export interface ModelFacts {
  /** Forward passes of training ask all ranks, so that all must take part. */
  readonly synchronised: boolean;
}

/**
 * Refuses what cannot be split by rows: state carried from batch to batch, a batch size that is part of
 * the model, metrics that are no weighted means.
 *
 * @param declared names that the user vouches for
 * @param unverified losses and metrics of the script's own that nobody will compare
 */
export function checkModel(
  model: LayersModel,
  declared: ReadonlySet<string>,
  unverified: readonly OwnFunction[],
): ModelFacts {
  const layers = [...allLayers(model)];
  for (const layer of layers) {
    // A model is stateful when one of its layers is: that one is named.
    if (layer.stateful && !layer.layers && !declared.has(layer.name)) {
      refuse(
        `the layer ${layer.name} (${layer.getClassName()}) is stateful: it carries state from row i of a batch to row i of the next`,
        layer.name,
      );
    }
  }
  for (const { shape } of model.inputs) {
    if (shape[0] != null && !declared.has(model.name)) {
      refuse(`the model ${model.name} has the fixed batch size ${shape[0]}`, model.name);
    }
  }
  for (const [metric, output] of model.metricsTensors) {
    const name = nameOf(metric);
    if (declared.has(name)) continue;
    if (notMeans.has(name)) {
      refuse(`the metric ${name} of output ${output} is no mean over rows`, name);
    }
  }
  for (const { what, name } of unverified) {
    if (declared.has(name)) continue;
    refuse(
      `the ${what} ${name || '(anonymous)'} of ${model.name} is the script's own, and verify_first_batch is off: nobody can tell that it is a mean over rows`,
      name,
    );
  }
  return { synchronised: layers.some(isSynchronised) };
}

/** All layers, those inside models and wrappers included. */
function* allLayers(layer: Layer): Generator<Layer> {
  yield layer;
  const inner = [
    ...(layer.layers ?? []),
    ...[layer.layer, layer.forwardLayer, layer.backwardLayer].filter((one) => one !== undefined),
  ];
  for (const one of inner) yield* allLayers(one);
}

function refuse(why: string, name: string): never {
  throw new DeepSpeedError('TFJS_UNSUPPORTED', `${why}; its batches cannot be split over ranks`, {
    fix: `Change it, run without the launcher, or vouch for it: "tfjs": { "declared": ["${name}"] } in the DeepSpeed config.`,
    data: { name },
  });
}
