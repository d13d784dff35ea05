/** An activation that only a product reads is computed as the product reads it: its result never exists. */
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import { geluName } from './extend.ts';
import { isPlain, isProduct, port, withAttribute, withInput } from './product.ts';
import type { Workbench } from './workbench.ts';

/** A factor that takes an activation: the inputs of both parts, and the attribute that names it. */
interface Side {
  factor: number;
  second: number;
  attribute: 'prologue' | 'prologueB';
}

function sidesOf(node: Node): Side[] {
  if (isProduct(node)) return [{ factor: port.a, second: port.a2, attribute: 'prologue' }];
  if (operatorKey(node) !== 'deepspeed.MatMulAccumulate') return [];
  return [
    { factor: 0, second: 4, attribute: 'prologue' },
    { factor: 1, second: 7, attribute: 'prologueB' },
  ];
}

export function absorbActivations(bench: Workbench): void {
  for (const node of bench.nodes()) {
    let product = node;
    for (const side of sidesOf(node)) product = absorbed(bench, product, side);
  }
}

/** The product with the activation before one of its factors in it, or as it was. */
function absorbed(bench: Workbench, product: Node, side: Side): Node {
  if (!isPlain(product, side.attribute)) return product;
  const found = activationBefore(bench, product, side.factor);
  if (found === undefined) return product;
  const { activation, views, name } = found;
  const leading = bench.shape(product.inputs[side.factor]!).slice(0, -1);
  const [x, up] = activation.inputs.map((input) => bench.asRows(input, leading));
  let made = withAttribute(withInput(product, side.factor, x!), side.attribute, name);
  if (name === 'silu_mul') made = withInput(made, side.second, up!);
  return bench.replace([product, activation, ...views], product, made);
}

/** The activation whose result the product alone reads, as this factor, through views or not. */
function activationBefore(
  bench: Workbench,
  product: Node,
  factor: number,
): { activation: Node; views: Node[]; name: string } | undefined {
  const views: Node[] = [];
  let value = product.inputs[factor]!;
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
