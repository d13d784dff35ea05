/**
 * Normalisation in plain operators. With x̂ = (x − mean)·rstd (layer norm) or x·rstd (RMS norm),
 * y = x̂·γ + β, and d̂ = dy·γ:
 *   dx = rstd·(d̂ − mean(d̂) − x̂·mean(d̂·x̂)), without the mean(d̂) term for RMS norm;
 *   dγ = Σ dy·x̂, dβ = Σ dy over the rows (Ba, Kiros and Hinton 2016, arXiv 1607.06450).
 */
import { floatAttribute, intAttribute } from '../../attributes.ts';
import type { Emitter } from '../../emitter.ts';
import { positiveAxis } from '../../emitter.ts';
import type { NodeContext } from '../../node-context.ts';

interface Statistics {
  /** x − mean, or x itself. */
  deviation: string;
  mean: string | undefined;
  /** 1/√(variance + ε), reduced axes kept as 1. */
  rstd: string;
}

function statistics(
  emit: Emitter,
  x: string,
  axes: readonly number[],
  epsilon: number,
  centred: boolean,
): Statistics {
  const mean = centred ? emit.mean(x, axes) : undefined;
  const deviation = mean === undefined ? x : emit.sub(x, mean);
  const variance = emit.mean(emit.mul(deviation, deviation), axes);
  const rstd = emit.unary('Reciprocal', emit.unary('Sqrt', emit.shift(variance, epsilon)));
  return { deviation, mean, rstd };
}

function inputGradient(
  emit: Emitter,
  scaled: string,
  normalised: string,
  rstd: string,
  axes: readonly number[],
  centred: boolean,
): string {
  const along = emit.mul(normalised, emit.mean(emit.mul(scaled, normalised), axes));
  const rest = emit.sub(scaled, along);
  return emit.mul(rstd, centred ? emit.sub(rest, emit.mean(scaled, axes)) : rest);
}

export interface PlainNorm {
  dY: string;
  x: string;
  gamma: string;
  axes: readonly number[];
  epsilon: number;
  /** Layer norm; false is RMS norm. */
  centred: boolean;
}

/** Gradient of a normalisation whose statistics were not saved. */
export function plainNormGradient(
  emit: Emitter,
  { dY, x, gamma, axes, epsilon, centred }: PlainNorm,
): { dX: string; normalised: string } {
  const { deviation, rstd } = statistics(emit, x, axes, epsilon, centred);
  const normalised = emit.mul(deviation, rstd);
  const dX = inputGradient(emit, emit.mul(dY, gamma), normalised, rstd, axes, centred);
  return { dX, normalised };
}

function lastAxis(c: NodeContext): number[] {
  return [c.shape(0).length - 1];
}

/** A value without its last axis, which is 1. */
function dropLast(emit: Emitter, value: string): string {
  return emit.reshape(value, emit.shape(value).slice(0, -1));
}

function restoreLast(emit: Emitter, value: string): string {
  return emit.reshape(value, [...emit.shape(value), 1]);
}

export function lowerLayerNormalization(c: NodeContext): string[] {
  const { emit } = c;
  const epsilon = floatAttribute(c.node, 'epsilon', 1e-5);
  const { deviation, mean, rstd } = statistics(emit, c.input(0), lastAxis(c), epsilon, true);
  const scaled = emit.mul(emit.mul(deviation, rstd), c.input(1));
  const y = c.has(2) ? emit.add(scaled, c.input(2)) : scaled;
  return [y, dropLast(emit, mean!), dropLast(emit, rstd)];
}

export function lowerRmsNormalization(c: NodeContext): string[] {
  const { emit } = c;
  const epsilon = floatAttribute(c.node, 'epsilon', 1e-5);
  const { deviation, rstd } = statistics(emit, c.input(0), lastAxis(c), epsilon, false);
  return [emit.mul(emit.mul(deviation, rstd), c.input(1)), dropLast(emit, rstd)];
}

/** ai.onnx RMSNormalization (opset 23) and ONNX Runtime's SimplifiedLayerNormalization. */
export function lowerOnnxRmsNormalization(c: NodeContext): string[] {
  const { emit, node } = c;
  const rank = c.shape(0).length;
  const first = positiveAxis(intAttribute(node, 'axis', -1), rank);
  const axes = Array.from({ length: rank - first }, (_, i) => first + i);
  const epsilon = floatAttribute(node, 'epsilon', 1e-5);
  const { deviation, rstd } = statistics(emit, c.input(0), axes, epsilon, false);
  return [emit.mul(emit.mul(deviation, rstd), c.input(1)), rstd];
}

export function lowerLayerNormalizationGrad(c: NodeContext): string[] {
  const { emit } = c;
  const [dY, x, gamma] = [c.input(0), c.input(1), c.input(2)];
  const rstd = restoreLast(emit, c.input(4));
  const normalised = emit.mul(emit.sub(x, restoreLast(emit, c.input(3))), rstd);
  const axes = lastAxis(c);
  const rows = c
    .shape(0)
    .slice(0, -1)
    .map((_, i) => i);
  const dX = inputGradient(emit, emit.mul(dY, gamma), normalised, rstd, axes, true);
  return [
    c.has(5) ? emit.add(dX, c.input(5)) : dX,
    emit.sum(emit.mul(dY, normalised), rows, false),
    emit.sum(dY, rows, false),
  ];
}

export function lowerRmsNormalizationGrad(c: NodeContext): string[] {
  const { emit } = c;
  const [dY, x, gamma] = [c.input(0), c.input(1), c.input(2)];
  const rstd = restoreLast(emit, c.input(3));
  const normalised = emit.mul(x, rstd);
  const rows = c
    .shape(0)
    .slice(0, -1)
    .map((_, i) => i);
  const dX = inputGradient(emit, emit.mul(dY, gamma), normalised, rstd, lastAxis(c), false);
  return [
    c.has(4) ? emit.add(dX, c.input(4)) : dX,
    emit.sum(emit.mul(dY, normalised), rows, false),
  ];
}
