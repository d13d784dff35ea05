import { fetchSamples, isMapDataset, type Dataset, type MapDataset } from './dataset.ts';
import { DeepSpeedError } from '../errors.ts';
import type { MicroBatch } from './batch-source.ts';
import type { Training } from './setup.ts';

/** Loss in nats per target token, over all ranks. */
export interface EvaluationMetrics extends Record<string, number> {
  eval_loss: number;
  eval_perplexity: number;
  eval_samples: number;
  eval_tokens: number;
}

/**
 * Mean loss per target token over a dataset, dropout off. Rank r takes rows [N·r/W, N·(r+1)/W); sums
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
  const mean = lossSum / tokenSum;
  const metrics = {
    eval_loss: mean,
    eval_perplexity: Math.exp(mean),
    eval_samples: sampleSum,
    eval_tokens: tokenSum,
  };
  await training.session.lifecycle.run('evaluate', { step, metrics });
  return metrics;
}

/** What the model says after every token of one sample. */
export interface Prediction {
  /** Index in the dataset. */
  index: number;
  /** Row-major [tokens, vocabulary]. */
  logits: Float32Array;
  tokens: number;
}

/** Logits of this rank's rows, one sample at a time: they are large, so nothing is gathered. */
export async function* predict(
  training: Training,
  dataset: Dataset,
  step: number,
): AsyncGenerator<Prediction> {
  const map = requireMap(dataset, 'prediction');
  for await (const part of ownRows(training, map)) {
    const batch = training.collate(part, training.args.perDeviceEvalBatchSize);
    const { output } = await training.host.evaluate(batch, step, 'logits');
    const [, length, vocabulary] = output!.dims as [number, number, number];
    for (const [row, sample] of part.samples.entries()) {
      const start = row * length * vocabulary;
      const tokens = sample.input_ids.length;
      yield {
        index: part.indices[row]!,
        logits: output!.data.slice(start, start + tokens * vocabulary),
        tokens,
      };
    }
  }
}

function requireMap(dataset: Dataset, what: string): MapDataset {
  if (isMapDataset(dataset) && dataset.length > 0) return dataset;
  if (isMapDataset(dataset)) {
    throw new DeepSpeedError('DATASET_EMPTY', `the ${what} dataset has no samples`);
  }
  throw new DeepSpeedError('DATASET_INVALID', `the ${what} dataset needs a length and get(index)`);
}

async function* ownRows(training: Training, dataset: MapDataset): AsyncGenerator<MicroBatch> {
  const { rank, worldSize } = training.runtime;
  const size = training.args.perDeviceEvalBatchSize;
  const first = Math.floor((dataset.length * rank) / worldSize);
  const last = Math.floor((dataset.length * (rank + 1)) / worldSize);
  for (let start = first; start < last; start += size) {
    const indices = Array.from({ length: Math.min(size, last - start) }, (_, i) => start + i);
    yield { samples: await fetchSamples(dataset, indices), indices };
  }
}
