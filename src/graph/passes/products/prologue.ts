/** An activation that only a product reads is computed as the product reads it: its result never exists. */
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import { geluName } from './extend.ts';
import { isPlain, isProduct, port, withAttribute, withInput } from './product.ts';
import type { Workbench } from './workbench.ts';

/** Index of A2 in the operators that have a prologue. */
function secondInput(node: Node): number | undefined {
  if (isProduct(node)) return port.a2;
  return operatorKey(node) === 'deepspeed.MatMulAccumulate' ? 4 : undefined;
}

export function absorbActivations(bench: Workbench): void {
  for (const node of bench.nodes()) {
    const second = secondInput(node);
    if (second === undefined || !isPlain(node, 'prologue')) continue;
    const found = activationBefore(bench, node);
    if (found === undefined) continue;
    const { activation, views, name } = found;
    const leading = bench.shape(node.inputs[0]!).slice(0, -1);
    const [x, up] = activation.inputs.map((input) => bench.asRows(input, leading));
    let made = withAttribute(withInput(node, 0, x!), 'prologue', name);
    if (name === 'silu_mul') made = withInput(made, second, up!);
    bench.replace([node, activation, ...views], node, made);
  }
}

/** The activation whose result the product alone reads, as its left factor, through views or not. */
function activationBefore(
  bench: Workbench,
  product: Node,
): { activation: Node; views: Node[]; name: string } | undefined {
  const views: Node[] = [];
  let value = product.inputs[0]!;
  let reader = product;
  for (;;) {
    const maker = bench.maker(value);
    if (maker === undefined || bench.onlyReader(value) !== reader) return undefined;
    if (!bench.isRowView(maker)) {
      const name = activationName(maker);
      return name === undefined ? undefined : { activation: maker, views, name };
    }
    views.push(maker);
    reader = maker;
    value = maker.inputs[0]!;
  }
}

function activationName(node: Node): string | undefined {
  switch (operatorKey(node)) {
    case 'deepspeed.Gelu':
      return geluName(node);
    case 'deepspeed.Silu':
      return 'silu';
    case 'deepspeed.SiluMul':
      return 'silu_mul';
    default:
      return undefined;
  }
}
