/** Operators that no gradient passes, said so that a person finds the place and a way out. */
import { DeepSpeedError } from '../../errors.ts';
import type { Graph, Node } from '../ir.ts';
import { operatorKey } from '../operator-key.ts';
import { producersOf, valuesLeadingTo, valuesReachableFrom } from '../topology.ts';
import { gradientRule } from './table.ts';

/**
 * Throws GRADIENT_MISSING, with the graph's own names, for the first node that a gradient would have to
 * pass and that has no rule. `active` is what activeValues found for these parameters.
 */
export function requireGradientRules(
  graph: Graph,
  active: ReadonlySet<string>,
  parameters: readonly string[],
): void {
  for (const node of graph.nodes) {
    if (gradientRule(operatorKey(node)) !== undefined) continue;
    const passed =
      node.inputs.some((input) => active.has(input)) &&
      node.outputs.some((output) => active.has(output));
    if (passed) throw missingRule(graph, node, parameters);
  }
}

/** Operators between a parameter and a node, for a person to find the place: `MatMul 'q' → Add 'r'`. */
function wayTo(graph: Graph, node: Node, parameter: string): string {
  const reached = valuesReachableFrom(graph, [parameter]);
  const producers = producersOf(graph);
  const way: Node[] = [];
  for (let at: Node | undefined = node; at !== undefined; ) {
    way.unshift(at);
    const source: string | undefined = at.inputs.find((input) => reached.has(input));
    at = source === undefined ? undefined : producers.get(source);
  }
  const names = way.map(({ opType, name }) => `${opType} '${name}'`);
  const shown = names.length > 6 ? [...names.slice(0, 2), '…', ...names.slice(-3)] : names;
  return `'${parameter}' → ${shown.join(' → ')}`;
}

/** GRADIENT_MISSING for a node, with the parameters before it and the way from one of them. */
export function missingRule(
  graph: Graph,
  node: Node,
  parameters: readonly string[],
): DeepSpeedError {
  const before = valuesLeadingTo(graph, node.inputs);
  const reaching = parameters.filter((parameter) => before.has(parameter));
  const shown = reaching.slice(0, 3).map((name) => `'${name}'`);
  const more = reaching.length > 3 ? ` and ${reaching.length - 3} more` : '';
  const operator = operatorKey(node);
  const way = reaching[0] === undefined ? '' : `: ${wayTo(graph, node, reaching[0])}`;
  return new DeepSpeedError(
    'GRADIENT_MISSING',
    `operator ${operator} of node '${node.name}' has no gradient rule, and the loss depends on ` +
      `trainable parameters through it${way}`,
    {
      fix:
        `Freeze the parameters before it (${shown.join(', ')}${more}), for example ` +
        '`trainable: (name) => !frozen.has(name)`, or export the model without this operator.',
      data: { node: node.name, op: operator, parameters: reaching },
    },
  );
}
