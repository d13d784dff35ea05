/** The gradient that a residual connection carries past a normalisation is added by its gradient. */
import type { Node } from '../../ir.ts';
import { operatorKey } from '../../operator-key.ts';
import { withInput } from './product.ts';
import type { Workbench } from './workbench.ts';

/** Index of `residual`. */
const residuals: Readonly<Record<string, number>> = {
  'deepspeed.LayerNormalizationGrad': 5,
  'deepspeed.RMSNormalizationGrad': 4,
};

export function addResidualsToNorms(bench: Workbench): void {
  for (const node of bench.nodes()) {
    const index = residuals[operatorKey(node)];
    if (index !== undefined && !node.inputs[index]) addResidual(bench, node, index);
  }
}

function addResidual(bench: Workbench, node: Node, index: number): void {
  const dX = node.outputs[0]!;
  const sum = bench.onlyReader(dX);
  if (sum === undefined || operatorKey(sum) !== 'Add') return;
  const other = sum.inputs.find((input) => input !== dX)!;
  if (bench.shape(other).join() !== bench.shape(dX).join()) return;
  const outputs = node.outputs.with(0, sum.outputs[0]!);
  bench.replace([node, sum], sum, { ...withInput(node, index, other), outputs });
}
