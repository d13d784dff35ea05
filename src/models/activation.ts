/** The activation functions of Hugging Face configs, as standard ONNX operators. */
import type { GraphBuilder } from '../graph/builder.ts';

export const activations = [
  'gelu_new',
  'gelu_pytorch_tanh',
  'gelu',
  'relu',
  'silu',
  'swish',
] as const;

export type Activation = (typeof activations)[number];

export function activate(b: GraphBuilder, activation: Activation, x: string): string {
  switch (activation) {
    case 'gelu':
      return b.op('Gelu', [x], { approximate: 'none' });
    case 'gelu_new':
    case 'gelu_pytorch_tanh':
      return b.op('Gelu', [x], { approximate: 'tanh' });
    case 'relu':
      return b.op('Relu', [x]);
    case 'silu':
    case 'swish':
      return b.op('Mul', [x, b.op('Sigmoid', [x])]);
  }
}
