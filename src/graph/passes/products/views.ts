/** Views of views become one, and views that change nothing go. */
import type { Workbench } from './workbench.ts';
import { operatorKey } from '../../operator-key.ts';

const reshapes = new Set(['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze']);

export function joinViews(bench: Workbench): void {
  for (const node of bench.nodes()) {
    if (!reshapes.has(operatorKey(node))) continue;
    let source = node.inputs[0]!;
    for (;;) {
      const maker = bench.maker(source);
      if (maker === undefined || !reshapes.has(operatorKey(maker))) break;
      source = maker.inputs[0]!;
    }
    const output = node.outputs[0]!;
    const same = bench.shape(source).join() === bench.shape(output).join();
    if (same && !bench.isOutput(output)) {
      bench.remove(node);
      bench.retire(output, source);
    } else if (source !== node.inputs[0]) {
      bench.replace([node], node, bench.view(source, output, node));
    }
  }
}
