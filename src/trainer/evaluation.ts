import { byIndex, type Dataset, fetchSamples, type MapDataset } from './dataset.ts';
import { DeepSpeedError } from '../errors.ts';
import type { MicroBatch } from './batch-source.ts';
import { elementCount } from '../hooks/index.ts';
import type { OutputView } from '../hosts/onnx/host.ts';
import type { Training } from './setup.ts';

/** Mean loss per target, over all ranks; for language models `eval_perplexity` and `eval_tokens`, too. */
export interface EvaluationMetrics extends Record<string, number> {
  eval_loss: number;
  eval_samples: number;
}

/**
 * Mean loss per target over a dataset, dropout off. Rank r takes rows [N·r/W, N·(r+1)/W); sums
 * are reduced over ranks, so the result does not depend on their number.
 */
export async function evaluate(
  training: Training,
  dataset: Dataset,
  step: number,
): Promise<EvaluationMetrics> {
  const map = requireMap(dataset, 'evaluation');
  let [loss, tokens, samples] = [0, 0, 0];
  for await (const part of ownRows(training, map)) {
    const batch = training.collate(part, training.args.perDeviceEvalBatchSize);
    loss += (await training.host.evaluate(batch, step)).loss;
    tokens += batch.targets;
    samples += batch.samples;
  }
  const [lossSum, tokenSum, sampleSum] = (await training.scalars.sum([loss, tokens, samples])) as [
    number,
    number,
    number,
  ];
  if (tokenSum === 0) {
    throw new DeepSpeedError(
      'DATASET_INVALID',
      'the evaluation dataset has no targets; every label is -100 or padding',
    );
  }
  const mean = lossSum / tokenSum;
  const metrics: EvaluationMetrics = {
    eval_loss: mean,
    eval_samples: sampleSum,
    ...(training.model.target === 'token' && {
      eval_perplexity: Math.exp(mean),
      eval_tokens: tokenSum,
    }),
  };
  await training.session.lifecycle.run('evaluate', { step, metrics });
  return metrics;
}

/** What the model says to one sample. */
export interface Prediction {
  /** Index in the dataset. */
  index: number;
  /**
   * The model's outputs without the rows' axis, row-major: of a causal language model `logits`
   * [tokens, vocabulary], padding left out.
   */
  outputs: Record<string, { data: Float32Array; dims: readonly number[] }>;
}

/** Outputs for this rank's rows, one batch at a time: they are large, so nothing is gathered. */
export async function* predict(
  training: Training,
  dataset: Dataset,
  step: () => number,
): AsyncGenerator<Prediction[], void> {
  const { model, host, args } = training;
  const map = requireMap(dataset, 'prediction');
  for await (const part of ownRows(training, map)) {
    const batch = training.collate(part, args.perDeviceEvalBatchSize);
    const { outputs } = await host.evaluate(batch, step(), model.outputs);
    // Copied before they are given away: the views last until the next batch.
    yield part.samples.map((sample, row) => ({
      index: part.indices[row]!,
      outputs: Object.fromEntries(
        [...outputs].map(([name, view]) => [name, rowOf(view, row, model.positions?.(sample))]),
      ),
    }));
  }
}

/** A copy of one row, of its first `positions` entries where that is given. */
function rowOf({ data, dims }: OutputView, row: number, positions = dims[1] ?? 1) {
  const own = dims.length > 1 ? [positions, ...dims.slice(2)] : [];
  const start = row * elementCount(dims.slice(1));
  return { data: data.slice(start, start + elementCount(own)), dims: own };
}

function requireMap(dataset: Dataset, what: string): MapDataset {
  const map = byIndex(dataset);
  if (!map) {
    throw new DeepSpeedError(
      'DATASET_INVALID',
      `the ${what} dataset is a stream; it must be an array or { length, get(index) }`,
    );
  }
  if (map.length > 0) return map;
  throw new DeepSpeedError('DATASET_EMPTY', `the ${what} dataset has no samples`);
}

/** Where a forward pass is collective, a rank with fewer rows ends with a batch without any. */
async function* ownRows(
  { runtime, host, args }: Training,
  dataset: MapDataset,
): AsyncGenerator<MicroBatch> {
  const { rank, worldSize } = runtime;
  const size = args.perDeviceEvalBatchSize;
  const first = Math.floor((dataset.length * rank) / worldSize);
  const last = Math.floor((dataset.length * (rank + 1)) / worldSize);
  const rows = host.passesAreCollective ? Math.ceil(dataset.length / worldSize) : last - first;
  for (let start = first; start < first + rows; start += size) {
    const count = Math.max(0, Math.min(size, last - start));
    const indices = Array.from({ length: count }, (_, i) => start + i);
    yield { samples: await fetchSamples(dataset, indices), indices };
  }
}
