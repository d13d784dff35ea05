/** A transposition of matrices whose leading axes were merged for it, as torch.onnx writes that of keys. */
import { intsAttribute } from '../../attributes.ts';
import { numel } from '../../tensor.ts';
import { operatorKey } from '../../operator-key.ts';
import type { Fusion } from './pattern.ts';

export const flatTranspose: Fusion = {
  name: 'Reshape, Transpose, Reshape → Transpose',
  match(node, view) {
    if (operatorKey(node) !== 'Reshape') return undefined;
    const transposed = view.from(node.inputs[0], 'Transpose');
    const flattened = transposed && view.from(transposed.inputs[0], 'Reshape');
    if (flattened === undefined) return undefined;
    if (intsAttribute(transposed!, 'perm')?.join() !== '0,2,1') return undefined;
    const [rows, columns] = view.shape(flattened.outputs[0]!).slice(1) as [number, number];
    const shape = view.shape(node.outputs[0]!);
    const leading = shape.slice(0, -2);
    if (leading.length < 2 || shape.at(-2) !== columns || shape.at(-1) !== rows) return undefined;
    if (numel(leading) !== view.shape(flattened.outputs[0]!)[0]) return undefined;
    const axes = leading.map((_, axis) => axis);
    return () => {
      const apart = view.emit.reshape(flattened.inputs[0]!, [...leading, rows, columns]);
      return [view.emit.transpose(apart, [...axes, axes.length + 1, axes.length])];
    };
  },
};
