/**
 * Standard initial values. Every element is a function of (seed, parameter name, element index) alone,
 * so a rank can make any shard by itself and gets what one process would have made.
 */
import { createHash } from 'node:crypto';
import type { Tensor } from '../graph/ir.ts';
import { fromTyped, numel } from '../graph/tensor.ts';
import { type ModelConfig, modelParameters } from './config.ts';
import type { ParameterSpec } from './parameters.ts';
import { philox4x32 } from '../philox.ts';

/**
 * Elements [start, start + count) of a parameter's initial value, row-major. Normal values come from
 * Philox 4x32-10 in blocks of four: key = the first 64 bits of SHA-256(seed, name), counter = index / 4;
 * two Box–Muller pairs in float64, rounded to float32.
 */
export function initialValues(
  spec: ParameterSpec,
  seed: number,
  start = 0,
  count = numel(spec.shape) - start,
): Float32Array {
  const values = new Float32Array(count);
  if (spec.init.kind === 'ones') return values.fill(1);
  if (spec.init.kind === 'normal') fillNormal(values, spec.name, seed, start, spec.init.std);
  return values;
}

export interface InitializeOptions {
  /** Default 42, as Hugging Face's Trainer has it. */
  seed?: number;
  /** Only these parameters. */
  filter?: (spec: ParameterSpec) => boolean;
}

/**
 * A new model's parameters by name: embeddings and matrices normal with the config's
 * initializer_range (GPT-2's residual projections smaller), biases 0, norms 1.
 */
export function initializeParameters(
  config: ModelConfig,
  options: InitializeOptions = {},
): Map<string, Tensor> {
  const { seed = 42, filter = () => true } = options;
  const specs = modelParameters(config).filter(filter);
  return new Map(
    specs.map((spec) => [spec.name, fromTyped('float32', spec.shape, initialValues(spec, seed))]),
  );
}

function fillNormal(
  values: Float32Array,
  name: string,
  seed: number,
  start: number,
  std: number,
): void {
  const digest = createHash('sha256').update(`${seed}\0${name}`).digest();
  const key0 = digest.readUInt32LE(0);
  const key1 = digest.readUInt32LE(4);
  const bits = new Uint32Array(4);
  const four = new Float64Array(4);
  const end = start + values.length;
  for (let block = Math.floor(start / 4); block * 4 < end; block++) {
    philox4x32(key0, key1, [block >>> 0, Math.floor(block / 2 ** 32), 0, 0], bits);
    boxMuller(bits[0]!, bits[1]!, four, 0);
    boxMuller(bits[2]!, bits[3]!, four, 2);
    const from = Math.max(start, block * 4);
    const to = Math.min(end, block * 4 + 4);
    for (let i = from; i < to; i++) values[i - start] = std * four[i - block * 4]!;
  }
}

/** Two standard normal numbers from two uint32. */
function boxMuller(a: number, b: number, out: Float64Array, at: number): void {
  const radius = Math.sqrt(-2 * Math.log((a + 0.5) / 2 ** 32));
  const angle = (2 * Math.PI * b) / 2 ** 32;
  out[at] = radius * Math.cos(angle);
  out[at + 1] = radius * Math.sin(angle);
}
