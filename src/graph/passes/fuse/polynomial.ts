/**
 * Arithmetic with constants, read as a polynomial in two values. Exporters write one activation in many
 * ways (0.5·x·(1 + t), (x·0.5)·(t + 1), x·(0.5 + 0.5·t), ...); as polynomials they are all equal.
 */
import type { GraphView } from './pattern.ts';
import { operatorKey } from '../../operator-key.ts';

/** Coefficient by `${power of first},${power of second}`. */
export type Polynomial = ReadonlyMap<string, number>;

const depthLimit = 8;

/** The value as a polynomial in `variables` (one or two), or undefined when it is none. */
export function polynomial(
  view: GraphView,
  value: string,
  variables: readonly string[],
  depth = 0,
): Polynomial | undefined {
  const index = variables.indexOf(value);
  if (index >= 0) return new Map([[index === 0 ? '1,0' : '0,1', 1]]);
  const constant = view.scalar(value);
  if (constant !== undefined) return new Map([['0,0', constant]]);
  const node = view.from(value);
  if (node === undefined || depth > depthLimit) return undefined;
  const operand = (i: number) => polynomial(view, node.inputs[i]!, variables, depth + 1);
  switch (operatorKey(node)) {
    case 'Add':
      return combine(operand(0), operand(1), 1);
    case 'Sub':
      return combine(operand(0), operand(1), -1);
    case 'Mul':
      return multiply(operand(0), operand(1));
    case 'Div': {
      const divisor = view.scalar(node.inputs[1]);
      return divisor === undefined ? undefined : scale(operand(0), 1 / divisor);
    }
    case 'Pow':
      return power(operand(0), view.scalar(node.inputs[1]));
    default:
      return undefined;
  }
}

/** Equal up to the rounding of constants that were stored as float32. */
export function samePolynomial(a: Polynomial | undefined, b: Record<string, number>): boolean {
  if (a === undefined) return false;
  const keys = new Set([...a.keys(), ...Object.keys(b)]);
  return [...keys].every((key) => {
    const [left, right] = [a.get(key) ?? 0, b[key] ?? 0];
    return Math.abs(left - right) <= 2e-4 * Math.abs(right);
  });
}

function combine(
  a: Polynomial | undefined,
  b: Polynomial | undefined,
  sign: number,
): Polynomial | undefined {
  if (a === undefined || b === undefined) return undefined;
  const sum = new Map(a);
  for (const [key, value] of b) sum.set(key, (sum.get(key) ?? 0) + sign * value);
  return sum;
}

function multiply(a: Polynomial | undefined, b: Polynomial | undefined): Polynomial | undefined {
  if (a === undefined || b === undefined) return undefined;
  const product = new Map<string, number>();
  for (const [left, factor] of a) {
    for (const [right, other] of b) {
      const [i, j] = left.split(',').map(Number) as [number, number];
      const [k, l] = right.split(',').map(Number) as [number, number];
      const key = `${i + k},${j + l}`;
      product.set(key, (product.get(key) ?? 0) + factor * other);
    }
  }
  return product;
}

function scale(a: Polynomial | undefined, factor: number): Polynomial | undefined {
  return a && new Map([...a].map(([key, value]) => [key, value * factor]));
}

function power(a: Polynomial | undefined, exponent: number | undefined): Polynomial | undefined {
  if (a === undefined || exponent === undefined) return undefined;
  if (!Number.isInteger(exponent) || exponent < 1 || exponent > 4) return undefined;
  let result: Polynomial | undefined = a;
  for (let i = 1; i < exponent; i++) result = multiply(result, a);
  return result;
}
