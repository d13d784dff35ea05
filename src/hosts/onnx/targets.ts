/** What an appended loss reads of the samples: labels, targets, and weights that leave out filler. */
import type { Dim } from '../../graph/index.ts';
import type { Feed } from './batch.ts';
import {
  type CrossEntropy,
  type Loss,
  lossWeight,
  type OutputLoss,
  type SquaredError,
} from './loss.ts';
import type { TensorSample } from './sample.ts';
import { readRow, type Row, stackRows } from './stack.ts';

/** Rows of one batch, filler last. */
export interface Rows {
  /** As many as the batch has rows; the first `real` of them count. */
  samples: readonly TensorSample[];
  real: number;
  /** In the dataset, for messages. */
  indices: readonly number[];
  /** Lengths of labels and targets are rounded up to it. */
  multiple: number;
  /** Shape of a row of a graph input; undefined for a field that the graph does not take. */
  declared(name: string): readonly Dim[] | undefined;
}

/** The feeds of a loss, and the number of targets that it is a sum over. */
export interface LossFeeds {
  feeds: Record<string, Feed>;
  targets: number;
}

export function lossFeeds(loss: Loss, rows: Rows): LossFeeds {
  switch (loss.type) {
    case 'crossEntropy':
      return labelFeeds(loss, rows);
    case 'meanSquaredError':
      return targetFeeds(loss, rows);
    default:
      return weightFeeds(loss, rows);
  }
}

function labelFeeds({ labels: name, ignoreIndex, shift }: CrossEntropy, rows: Rows): LossFeeds {
  const { samples, real, indices, multiple } = rows;
  const spec = {
    name,
    dtype: 'int64',
    shape: rows.declared(name),
    padValue: ignoreIndex,
    multiple,
  } as const;
  let targets = 0;
  const labels = samples.map((sample, position): Row => {
    const { data, dims } = readRow(sample[name], spec, indices[position]!);
    const own = Array.from(data);
    if (shift) own.push(...own.splice(0, 1).map(() => ignoreIndex));
    if (position >= real) own.fill(ignoreIndex);
    targets += own.filter((label) => Number(label) !== ignoreIndex).length;
    return { data: own, dims };
  });
  return { feeds: { [name]: stackRows(labels, indices, spec) }, targets };
}

function targetFeeds({ targets: name }: SquaredError, rows: Rows): LossFeeds {
  const { samples, real, indices, multiple } = rows;
  const spec = {
    name,
    dtype: 'float32',
    shape: rows.declared(name),
    padValue: 0,
    multiple,
  } as const;
  const values = samples.map((sample, row) => readRow(sample[name], spec, indices[row]!));
  const weights = values.map(({ data, dims }, row): Row => {
    return { data: new Array(data.length).fill(row < real ? 1 : 0), dims };
  });
  return {
    feeds: {
      [name]: stackRows(values, indices, spec),
      [lossWeight]: stackRows(weights, indices, spec),
    },
    targets: values.slice(0, real).reduce((sum, { data }) => sum + data.length, 0),
  };
}

function weightFeeds({ reduction, count }: OutputLoss, rows: Rows): LossFeeds {
  const { samples, real } = rows;
  const targets = samples.slice(0, real).reduce((sum, sample) => sum + count(sample), 0);
  const weights =
    reduction === 'none'
      ? Float32Array.from(samples, (_, row) => (row < real ? 1 : 0))
      : Float32Array.of(reduction === 'mean' ? targets : Math.min(real, 1));
  const dims = reduction === 'none' ? [samples.length] : [];
  return { feeds: { [lossWeight]: { dtype: 'float32', dims, data: weights } }, targets };
}
