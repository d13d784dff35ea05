/** From the argument of a softmax down to the product of queries and keys. */
import { floatAttribute, intAttribute } from '../../../attributes.ts';
import type { Node } from '../../../ir.ts';
import { operatorKey } from '../../../operator-key.ts';
import type { GraphView } from '../pattern.ts';
import { uniform } from './constant.ts';

/** One thing done to scores between product and softmax. */
export type Masking =
  | { kind: 'added'; value: string; factor: number }
  | { kind: 'condition'; value: string; negate: boolean };

export interface Scores {
  q: string;
  k: string;
  /** K is [.., T, D], not [.., D, T]. */
  transposedKeys: boolean;
  scale: number;
  maskings: Masking[];
}

const products = ['MatMul', 'com.microsoft.FusedMatMul'];

/**
 * The scores, or why they are none that attention can compute; undefined when no product of two
 * activations comes before.
 */
export function scoresOf(view: GraphView, softmaxInput: string): Scores | string | undefined {
  if (!comesAfterProduct(view, softmaxInput, 8)) return undefined;
  const maskings: Masking[] = [];
  let scale = 1;
  let value = softmaxInput;
  for (;;) {
    const node = view.from(value);
    const key = node && operatorKey(node);
    switch (key) {
      case 'Add': {
        const leading = node!.inputs.filter((input) => leadsToProduct(view, input));
        if (leading.length !== 1) return 'its scores are a sum of products';
        const other = node!.inputs.find((input) => input !== leading[0])!;
        maskings.push({ kind: 'added', value: other, factor: scale });
        value = leading[0]!;
        break;
      }
      case 'Mul':
      case 'Div': {
        const scaled = view.withScalar(node);
        if (scaled === undefined || (key === 'Div' && scaled.other !== node!.inputs[0])) {
          return 'its scores are scaled by more than one number';
        }
        scale *= key === 'Mul' ? scaled.number : 1 / scaled.number;
        value = scaled.other;
        break;
      }
      case 'Where': {
        const [condition, yes, no] = node!.inputs as [string, string, string];
        const negate = !leadsToProduct(view, yes);
        const low = uniform(view, negate ? yes : no);
        if (low === undefined || low > -1e4) return 'its scores are replaced by a Where';
        maskings.push({ kind: 'condition', value: condition, negate });
        value = negate ? no : yes;
        break;
      }
      case 'Identity':
        value = node!.inputs[0]!;
        break;
      case 'MatMul':
      case 'com.microsoft.FusedMatMul':
        return product(node!, scale, maskings);
      default:
        return `${key ?? 'an input'} lies between its product and the softmax`;
    }
  }
}

function product(node: Node, scale: number, maskings: Masking[]): Scores | string {
  if (intAttribute(node, 'transA', 0) !== 0) return 'its queries are transposed';
  if (intAttribute(node, 'transBatchA', 0) || intAttribute(node, 'transBatchB', 0)) {
    return 'its product moves batch axes';
  }
  const alpha = node.opType === 'FusedMatMul' ? floatAttribute(node, 'alpha', 1) : 1;
  const [q, k] = node.inputs as [string, string];
  const transposedKeys = intAttribute(node, 'transB', 0) !== 0;
  return { q, k, transposedKeys, scale: scale * alpha, maskings };
}

/** Does a value come from a product through what may stand before a softmax? */
export function leadsToProduct(view: GraphView, value: string): boolean {
  const node = view.from(value);
  if (node === undefined) return false;
  const key = operatorKey(node);
  if (products.includes(key)) return true;
  if (!['Add', 'Mul', 'Div', 'Where', 'Identity'].includes(key)) return false;
  return node.inputs.some((input) => leadsToProduct(view, input));
}

function comesAfterProduct(view: GraphView, value: string, depth: number): boolean {
  const node = view.from(value);
  if (node === undefined || depth === 0) return false;
  if (products.includes(operatorKey(node))) {
    return node.inputs.every((input) => view.from(input) !== undefined);
  }
  return node.inputs.some((input) => comesAfterProduct(view, input, depth - 1));
}
