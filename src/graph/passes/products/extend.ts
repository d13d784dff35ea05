/**
 * What follows a product becomes its end: views of its rows, a bias, an activation or the derivative of
 * one, a residual. Each is taken only while nothing else reads the value in between.
 */
import { floatAttribute, intAttribute, stringAttribute } from '../../attributes.ts';
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import { numel } from '../../tensor.ts';
import { has, isPlain, isProduct, port, withAttribute, withInput } from './product.ts';
import type { Workbench } from './workbench.ts';

export function extendProducts(bench: Workbench): void {
  for (let node of bench.nodes()) {
    if (!bench.has(node) || !isProduct(node)) continue;
    for (;;) {
      const next = bench.onlyReader(node.outputs[0]!);
      const longer = next && extended(bench, node, next);
      if (longer === undefined) break;
      node = bench.replace([node, next!], next!, { ...longer, outputs: [next!.outputs[0]!] });
    }
  }
}

/** The product that also does what `next` does, or undefined. Its output is set by the caller. */
function extended(bench: Workbench, product: Node, next: Node): Node | undefined {
  const y = product.outputs[0]!;
  if (bench.isRowView(next)) return onOtherRows(bench, product, bench.shape(next.outputs[0]!));
  const open = isPlain(product, 'epilogue');
  const bare = open && !has(product, port.residual);
  switch (operatorKey(next)) {
    case 'Add': {
      const other = next.inputs.find((input) => input !== y)!;
      return added(bench, product, other, open);
    }
    case 'Mul': {
      const factor = bench.scalar(next.inputs.find((input) => input !== y)!);
      if (factor === undefined || !bare || has(product, port.bias)) return undefined;
      return withAttribute(product, 'alpha', floatAttribute(product, 'alpha', 1) * factor);
    }
    case 'deepspeed.Gelu':
      return bare ? withAttribute(product, 'epilogue', geluName(next)) : undefined;
    case 'deepspeed.Silu':
      return bare ? withAttribute(product, 'epilogue', 'silu') : undefined;
    case 'deepspeed.GeluGrad':
    case 'deepspeed.SiluGrad': {
      const [dY, z] = next.inputs as [string, string];
      if (!bare || has(product, port.bias) || dY !== y) return undefined;
      const name = next.opType === 'GeluGrad' ? geluName(next) : 'silu';
      return withAttribute(withInput(product, port.z, z), 'epilogue', `${name}_grad`);
    }
    default:
      return undefined;
  }
}

export function geluName(node: Node): string {
  return stringAttribute(node, 'approximate', 'none') === 'tanh' ? 'gelu_tanh' : 'gelu';
}

/** A vector of the last axis is a bias, a value of the product's shape a residual. */
function added(bench: Workbench, product: Node, other: string, open: boolean): Node | undefined {
  const shape = bench.shape(product.outputs[0]!);
  const given = bench.shape(other);
  const rank = shape.length;
  if (given.join() === shape.join() && !has(product, port.residual)) {
    return withInput(product, port.residual, other);
  }
  const isVector = given.at(-1) === shape[rank - 1] && numel(given) === shape[rank - 1];
  if (!isVector || given.length > rank || !open || has(product, port.bias)) return undefined;
  return withInput(product, port.bias, bench.asRows(other, []));
}

/** The same product of rows with other axes in front; only a matrix on the right allows it. */
function onOtherRows(bench: Workbench, product: Node, shape: readonly number[]): Node | undefined {
  const flat = bench.shape(product.inputs[port.b]!).length === 2;
  if (!flat || intAttribute(product, 'transA', 0) !== 0 || shape.length < 2) return undefined;
  const leading = shape.slice(0, -1);
  let made = product;
  for (const index of [port.a, port.a2, port.residual, port.z]) {
    if (!has(product, index)) continue;
    made = withInput(made, index, bench.asRows(product.inputs[index]!, leading));
  }
  return made;
}
