/** For tests: the models of goldens/models, and running graphs in onnxruntime-node. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { encodeModel } from '../../graph/codec/model.ts';
import type { Graph, Tensor } from '../../graph/ir.ts';
import { toNumbers } from '../../graph/tensor.ts';
import { type ModelConfig, parseModelConfig } from '../config.ts';
import { SafetensorsFile } from '../safetensors.ts';
import { modelOpsets } from '../training-graph.ts';

export const goldenCases = ['gpt2', 'gpt2-untied', 'llama', 'llama-tied'] as const;

export interface Golden {
  dir: string;
  config: ModelConfig;
  parameters: Map<string, Tensor>;
  /** input_ids, labels, attention_mask, logits, grad.<parameter>, train.input_ids, train.labels. */
  tensors: Map<string, Tensor>;
  loss: number;
  masked_loss: number;
  greedy: number[];
  greedy_prompt_length: number;
  recipe: {
    lr: number;
    betas: [number, number];
    eps: number;
    weight_decay: number;
    max_norm: number;
    warmup_steps: number;
  };
  train_losses: number[];
  train_gradient_norms: number[];
}

export function goldenDir(name: string): string {
  return join(import.meta.dirname, '../../../goldens/models', name);
}

export function loadGolden(name: string): Golden {
  const dir = goldenDir(name);
  const json = (file: string) => JSON.parse(readFileSync(join(dir, file), 'utf8'));
  const config = parseModelConfig(json('config.json'));
  return {
    ...json('golden.json'),
    dir,
    config,
    parameters: readAll(join(dir, 'model.safetensors')),
    tensors: readAll(join(dir, 'golden.safetensors')),
  };
}

function readAll(path: string): Map<string, Tensor> {
  const file = new SafetensorsFile(path);
  const tensors = [...file.tensors.values()].map(({ name, dtype, shape }): [string, Tensor] => [
    name,
    { dtype, dims: shape, data: file.readBytes(name) },
  ]);
  file.close();
  return new Map(tensors);
}

/** An int64 feed from any tensor of whole numbers. */
export function int64(dims: readonly number[], values: ArrayLike<number>): ort.Tensor {
  return new ort.Tensor('int64', BigInt64Array.from(Array.from(values, BigInt)), dims);
}

export function int64Of(tensor: Tensor): ort.Tensor {
  return int64(tensor.dims, toNumbers(tensor));
}

/** Runs a graph once; all its outputs. */
export async function runGraph(
  graph: Graph,
  feeds: Record<string, ort.Tensor>,
): Promise<Record<string, ort.Tensor>> {
  const session = await ort.InferenceSession.create(encodeGraphAsModel(graph));
  try {
    return { ...(await session.run(feeds)) };
  } finally {
    await session.release();
  }
}

export function encodeGraphAsModel(graph: Graph): Uint8Array {
  return encodeModel({
    irVersion: 10,
    producerName: 'deepspeed-js',
    opsets: new Map(modelOpsets),
    graph,
    metadata: new Map(),
  });
}

/** Σ losses / number of labels that count. */
export function meanLoss(loss: ArrayLike<number>, labels: ArrayLike<number>): number {
  const sum = Array.from(loss).reduce((a, b) => a + b, 0);
  return sum / Array.from(labels).filter((label) => label !== -100).length;
}

export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
}
