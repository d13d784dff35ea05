/** GELU, SiLU and gated SiLU. */
import { floatAttribute, stringAttribute } from '../../attributes.ts';
import { sameShape } from '../../emitter.ts';
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import type { Fusion, GraphView, Replacement } from './pattern.ts';
import { polynomial, samePolynomial } from './polynomial.ts';

function gelu(view: GraphView, x: string, approximate: string): Replacement {
  return () => [view.emit.one('Gelu', [x], view.type(x), { approximate }, 'deepspeed')];
}

function silu(view: GraphView, x: string): Replacement {
  return () => [view.emit.one('Silu', [x], view.type(x), {}, 'deepspeed')];
}

export const operatorGelu: Fusion = {
  name: 'Gelu → deepspeed.Gelu',
  match(node, view) {
    const x = node.inputs[0]!;
    switch (operatorKey(node)) {
      case 'Gelu':
        return gelu(view, x, stringAttribute(node, 'approximate', 'none'));
      case 'com.microsoft.Gelu':
        return gelu(view, x, 'none');
      case 'com.microsoft.FastGelu': {
        const bias = node.inputs[1];
        if (!bias) return gelu(view, x, 'tanh');
        return () => gelu(view, view.emit.add(x, bias), 'tanh')();
      }
      default:
        return undefined;
    }
  },
};

export const operatorSilu: Fusion = {
  name: 'Swish → deepspeed.Silu',
  match(node, view) {
    if (operatorKey(node) !== 'Swish' || floatAttribute(node, 'alpha', 1) !== 1) return undefined;
    return silu(view, node.inputs[0]!);
  },
};

const tanhScale = Math.sqrt(2 / Math.PI);

/**
 * x/2·(1 + t) with t = erf(x/√2), or t = tanh(√(2/π)·(x + 0.044715·x³)), however the constants are
 * spread over the products.
 */
export const decomposedGelu: Fusion = {
  name: 'decomposed GELU → deepspeed.Gelu',
  match(node, view) {
    if (operatorKey(node) !== 'Mul') return undefined;
    for (const transcendental of ancestors(view, node, ['Erf', 'Tanh'], 4)) {
      const t = transcendental.outputs[0]!;
      const argument = transcendental.inputs[0]!;
      const exact = transcendental.opType === 'Erf';
      const wanted = exact
        ? { '1,0': Math.SQRT1_2 }
        : { '1,0': tanhScale, '3,0': tanhScale * 0.044715 };
      for (const x of candidates(view, argument, 6)) {
        if (!samePolynomial(polynomial(view, argument, [x]), wanted)) continue;
        const whole = polynomial(view, node.outputs[0]!, [x, t]);
        if (!samePolynomial(whole, { '1,0': 0.5, '1,1': 0.5 })) continue;
        return gelu(view, x, exact ? 'none' : 'tanh');
      }
    }
    return undefined;
  },
};

/** x of x·σ(x), in any form known here. */
function siluArgument(view: GraphView, value: string): string | undefined {
  const swish = view.from(value, 'Swish', 'deepspeed.Silu');
  if (swish !== undefined)
    return floatAttribute(swish, 'alpha', 1) === 1 ? swish.inputs[0] : undefined;
  const product = view.from(value, 'Mul');
  for (const [x, gate] of product ? view.orders(product) : []) {
    if (view.from(gate, 'Sigmoid')?.inputs[0] === x) return x;
  }
  return undefined;
}

export const gatedSilu: Fusion = {
  name: 'silu(gate) · up → deepspeed.SiluMul',
  match(node, view) {
    if (operatorKey(node) !== 'Mul') return undefined;
    for (const [activated, up] of view.orders(node)) {
      const gate = siluArgument(view, activated);
      if (gate === undefined || !sameShape(view.shape(gate), view.shape(up))) continue;
      return () => [view.emit.one('SiluMul', [gate, up], view.type(gate), {}, 'deepspeed')];
    }
    return undefined;
  },
};

export const decomposedSilu: Fusion = {
  name: 'x · σ(x) → deepspeed.Silu',
  match(node, view) {
    if (operatorKey(node) !== 'Mul') return undefined;
    const x = siluArgument(view, node.outputs[0]!);
    return x === undefined ? undefined : silu(view, x);
  },
};

/** Nodes of the given operators that a node reaches through products, sums and quotients. */
function ancestors(view: GraphView, node: Node, operators: string[], depth: number): Node[] {
  if (operators.includes(operatorKey(node))) return [node];
  if (depth === 0 || !['Mul', 'Add', 'Div'].includes(operatorKey(node))) return [];
  return node.inputs.flatMap((input) => {
    const producer = view.from(input);
    return producer ? ancestors(view, producer, operators, depth - 1) : [];
  });
}

/** Values under an expression that it might be a polynomial of. */
function candidates(view: GraphView, value: string, depth: number): Set<string> {
  const found = new Set<string>();
  const visit = (name: string, left: number): void => {
    if (view.scalar(name) !== undefined) return;
    found.add(name);
    const node = view.from(name, 'Mul', 'Add', 'Div', 'Pow');
    if (left > 0) for (const input of node?.inputs ?? []) visit(input, left - 1);
  };
  visit(value, depth);
  found.delete(value);
  return found;
}
