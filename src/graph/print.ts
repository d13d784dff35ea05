/** A graph as text, one node a line, for errors, snapshots and people. */
import type { Attribute, Dim, Graph, Node, Tensor, ValueInfo, ValueType } from './ir.ts';
import { numel, toNumbers } from './tensor.ts';

/**
 * @example
 * // graph mlp
 * //   input x: float32[batch, 4]
 * //   const w: float32[4, 3]
 * //   y = Gemm(x, w) {alpha: 0.5}  # float32[2, 3]
 * //   output y: float32[batch, 3]
 */
export function printGraph(graph: Graph, types?: ReadonlyMap<string, ValueType>): string {
  const lines = [
    ...graph.inputs.map((input) => `input ${printValue(input)}`),
    ...[...graph.initializers].map(([name, tensor]) => `const ${name}: ${printTensor(tensor)}`),
    ...graph.nodes.map((node) => printNode(node) + comment(node, types)),
    ...graph.outputs.map((output) => `output ${printValue(output)}`),
  ];
  return [`graph ${graph.name}`, ...lines.map((line) => `  ${line}`)].join('\n');
}

/** `y = Gemm(x, w) {alpha: 0.5}`; an absent input or output is `_`. */
export function printNode(node: Node): string {
  const list = (names: readonly string[]) => names.map((name) => name || '_').join(', ');
  const operator = node.domain === '' ? node.opType : `${node.domain}.${node.opType}`;
  const attributes = Object.entries(node.attributes).map(
    ([name, attribute]) => `${name}: ${printAttribute(attribute)}`,
  );
  const tail = attributes.length === 0 ? '' : ` {${attributes.join(', ')}}`;
  return `${list(node.outputs)} = ${operator}(${list(node.inputs)})${tail}`;
}

function comment(node: Node, types: ReadonlyMap<string, ValueType> | undefined): string {
  const known = node.outputs.flatMap((name) => types?.get(name) ?? []);
  return known.length === 0 ? '' : `  # ${known.map((type) => printType(type)).join(', ')}`;
}

function printAttribute(attribute: Attribute): string {
  switch (attribute.type) {
    case 'tensor':
      return printTensor(attribute.value);
    case 'graph':
      return `graph ${attribute.value.name} of ${attribute.value.nodes.length} nodes`;
    default:
      return JSON.stringify(attribute.value);
  }
}

function printValue({ name, dtype, shape }: ValueInfo): string {
  return `${name}: ${shape === undefined ? `${dtype}[...]` : printType({ dtype, shape })}`;
}

function printType({ dtype, shape }: { dtype: string; shape: readonly Dim[] }): string {
  return `${dtype}[${shape.map((dim) => (dim === '' ? '?' : dim)).join(', ')}]`;
}

/** Up to eight elements are shown. */
function printTensor(tensor: Tensor): string {
  const type = printType({ dtype: tensor.dtype, shape: tensor.dims });
  if (tensor.dtype === 'string' || numel(tensor.dims) > 8) return type;
  return `${type} = [${toNumbers(tensor).join(', ')}]`;
}
