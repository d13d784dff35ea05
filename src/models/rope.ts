/**
 * Rotary position embedding (Su et al., "RoFormer", arXiv 2104.09864) in the rotate-halves form of Llama,
 * with the frequency scalings of Hugging Face's `rope_type` default, linear and llama3.
 */
import type { GraphBuilder } from '../graph/builder.ts';
import { ConfigFields, type Json } from './config-fields.ts';

/** How positions become angles. */
export type Rope =
  | { type: 'default'; theta: number }
  | { type: 'linear'; theta: number; factor: number }
  | {
      type: 'llama3';
      theta: number;
      factor: number;
      lowFrequencyFactor: number;
      highFrequencyFactor: number;
      originalMaxPositions: number;
    };

const types = ['default', 'linear', 'llama3'] as const;

/**
 * Reads `rope_theta` + `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5) from a
 * config. Types other than default, linear and llama3 are refused by name.
 */
export function parseRope(fields: ConfigFields, maxPositions: number): Rope {
  const outerTheta = fields.number('rope_theta', 10000, 1);
  const scaling = fields.object('rope_scaling');
  const parameters = fields.object('rope_parameters');
  fields.check(
    scaling === null || parameters === null || sameSettings(scaling, parameters),
    'rope_scaling and rope_parameters contradict each other',
  );
  const settings = parameters ?? scaling ?? {};
  const inner = new ConfigFields(settings, 'rope_scaling');
  const theta = inner.number('rope_theta', outerTheta, 1);
  fields.check(
    !fields.has('rope_theta') || theta === outerTheta,
    `rope_theta ${outerTheta} contradicts the ${theta} of rope_parameters`,
  );
  inner.fixed('partial_rotary_factor', [1]);
  // `type` is the older spelling of `rope_type`.
  const type = inner.oneOf('rope_type', types, inner.oneOf('type', types, 'default'));
  const rope = readType(type, theta, inner, maxPositions);
  inner.finish();
  return rope;
}

function readType(
  type: (typeof types)[number],
  theta: number,
  inner: ConfigFields,
  maxPositions: number,
): Rope {
  if (type === 'default') return { type, theta };
  const factor = inner.number('factor', undefined, 1);
  if (type === 'linear') return { type, theta, factor };
  return {
    type,
    theta,
    factor,
    lowFrequencyFactor: inner.number('low_freq_factor'),
    highFrequencyFactor: inner.number('high_freq_factor'),
    originalMaxPositions: inner.count('original_max_position_embeddings', maxPositions),
  };
}

function sameSettings(a: Json, b: Json): boolean {
  const settings = ({ type, rope_type, rope_theta: _, ...rest }: Json) =>
    JSON.stringify(Object.entries({ ...rest, rope_type: rope_type ?? type }).sort());
  return settings(a) === settings(b);
}

/** Radians per position of each of the headWidth / 2 pairs. */
export function inverseFrequencies(rope: Rope, headWidth: number): number[] {
  return Array.from({ length: headWidth / 2 }, (_, pair) => {
    const frequency = rope.theta ** ((-2 * pair) / headWidth);
    if (rope.type === 'default') return frequency;
    if (rope.type === 'linear') return frequency / rope.factor;
    // Llama 3: short wavelengths stay, long ones are stretched, those between blend linearly.
    const turns = (rope.originalMaxPositions * frequency) / (2 * Math.PI);
    const { lowFrequencyFactor: low, highFrequencyFactor: high } = rope;
    const keep = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return frequency * (keep + (1 - keep) / rope.factor);
  });
}

/**
 * cos and sin of every position's angles, [..., headWidth / 2] for int64 positions [...].
 * They depend on no parameter: a plan computes them once per batch.
 */
export function rotaryTables(
  b: GraphBuilder,
  positions: string,
  rope: Rope,
  headWidth: number,
): { cos: string; sin: string } {
  const perPosition = b.constant('float32', [headWidth / 2], inverseFrequencies(rope, headWidth));
  const column = b.op('Unsqueeze', [
    b.op('Cast', [positions], { to: 1 }),
    b.constant('int64', [1], [-1]),
  ]);
  const angles = b.op('Mul', [column, perPosition]);
  return { cos: b.op('Cos', [angles]), sin: b.op('Sin', [angles]) };
}

/** Turns x [B, H, S, D]: halves (x1, x2) become (x1·cos − x2·sin, x2·cos + x1·sin). */
export function rotate(b: GraphBuilder, x: string, cos: string, sin: string): string {
  const [x1, x2] = b.ops('Split', [x], 2, { axis: -1, num_outputs: 2 }) as [string, string];
  const first = b.op('Sub', [b.op('Mul', [x1, cos]), b.op('Mul', [x2, sin])]);
  const second = b.op('Add', [b.op('Mul', [x2, cos]), b.op('Mul', [x1, sin])]);
  return b.op('Concat', [first, second], { axis: -1 });
}
