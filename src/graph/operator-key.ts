import type { Node } from './ir.ts';

/** `MatMul` for ai.onnx, `com.microsoft.Gelu` and `deepspeed.Gelu` for other domains. */
export function operatorKey(node: Node): string {
  const standard = node.domain === '' || node.domain === 'ai.onnx';
  return standard ? node.opType : `${node.domain}.${node.opType}`;
}
