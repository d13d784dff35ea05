/** Masks whose values follow from shapes alone. */
import type { Tensor } from '../../../ir.ts';
import { inferNode } from '../../../shapes/infer.ts';
import { toNumbers } from '../../../tensor.ts';
import { operatorKey } from '../../../operator-key.ts';
import type { GraphView } from '../pattern.ts';

/** A mask of 4,096 × 4,096 is computed to be looked at; a larger one is read by its structure only. */
const maxElements = 2 ** 24;

/**
 * The value's elements when they depend on no input: folded before, or computed here, since shape
 * inference stops at smaller sizes. Intermediate results are not kept.
 */
export function constantOf(view: GraphView, value: string): Tensor | undefined {
  const known = view.type(value).constant;
  if (known !== undefined) return known;
  const types = new Map<string, ReturnType<GraphView['type']>>();
  const compute = (name: string): Tensor | undefined => {
    const type = types.get(name) ?? view.type(name);
    if (type.constant !== undefined) {
      types.set(name, type);
      return type.constant;
    }
    const node = view.from(name);
    if (node === undefined) return undefined;
    if (type.shape.reduce((a, b) => a * b, 1) > maxElements) return undefined;
    const inputs = node.inputs.filter((input) => input !== '');
    if (!inputs.every((input) => compute(input) !== undefined)) return undefined;
    const results = inferNode(node, types, maxElements);
    node.outputs.forEach((output, i) => {
      if (output !== '' && results[i] !== undefined) types.set(output, results[i]);
    });
    return types.get(name)?.constant;
  };
  return compute(value);
}

/** The number that all elements are, written as a constant, a fill or an expanded scalar. */
export function uniform(view: GraphView, value: string): number | undefined {
  const scalar = view.scalar(value);
  if (scalar !== undefined) return scalar;
  const node = view.from(value);
  if (node === undefined) return undefined;
  switch (operatorKey(node)) {
    case 'ConstantOfShape': {
      const fill = node.attributes.value;
      return fill?.type === 'tensor' ? toNumbers(fill.value)[0] : 0;
    }
    case 'Expand':
    case 'Identity':
    case 'Cast':
    case 'Reshape':
    case 'Unsqueeze':
      return uniform(view, node.inputs[0]!);
    default:
      return undefined;
  }
}
