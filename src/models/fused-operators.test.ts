/** What a layer of GPT-2 and of Llama runs when everything is fused. */
import { describe, expect, it } from 'vitest';
import type { Graph } from '../graph/ir.ts';
import { operatorKey } from '../graph/operator-key.ts';
import { planTraining } from '../graph/plan.ts';
import { parseModelConfig } from './config.ts';
import { buildTrainingGraph } from './training-graph.ts';

const sizes = { batch: 2, length: 24 };

const gpt2 = {
  model_type: 'gpt2',
  vocab_size: 40,
  n_positions: 32,
  n_embd: 32,
  n_layer: 2,
  n_head: 4,
  attn_pdrop: 0,
  resid_pdrop: 0,
  embd_pdrop: 0,
};
const llama = {
  model_type: 'llama',
  vocab_size: 40,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 32,
};

function planOf(config: Record<string, unknown>, attentionMask = false) {
  const { batch, length } = sizes;
  const graph = buildTrainingGraph(parseModelConfig(config as never, 'the test'), {
    batchSize: batch,
    sequenceLength: length,
    attentionMask,
  });
  return planTraining(graph, {
    inputShapes: {},
    trainable: (name) => /^(transformer|model|lm_head)\./.test(name),
    keepOutputs: ['logits'],
  });
}

function layerOf(config: Record<string, unknown>, attentionMask = false) {
  const plan = planOf(config, attentionMask);
  const { program } = plan.segments.find(({ name }) => name === 'layer.0')!;
  return plan.programs.get(program)!;
}

/** `operator: how often`, sorted. */
function operators({ nodes }: Graph): string[] {
  const counts = new Map<string, number>();
  for (const node of nodes) {
    const key = operatorKey(node).replace('deepspeed.', '');
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return [...counts].map(([key, count]) => `${key}: ${count}`).sort();
}

describe('a layer of GPT-2', () => {
  const { forward, backward, inference, savedBytes } = layerOf(gpt2);

  it('is products, attention and norms', () => {
    const expected = ['Attention: 1', 'LayerNormalization: 2', 'MatMul: 4'];
    expect(operators(forward)).toEqual(expected);
    expect(operators(inference)).toEqual(expected);
    expect(operators(backward!)).toEqual([
      'Accumulate: 4', // of the norms' vectors
      'AttentionGrad: 1',
      'LayerNormalization: 2', // computed again
      'LayerNormalizationGrad: 2',
      'MatMul: 4',
      'MatMulAccumulate: 4',
    ]);
  });

  it('keeps nine widths a token and one number a head', () => {
    // q, k, v; what attention gives; the sum before the MLP; four widths before the activation.
    const { n_embd: width, n_head: heads } = gpt2;
    expect(savedBytes).toBe(sizes.batch * sizes.length * (9 * width + heads) * 4);
  });

  it('with dropout has that beside', () => {
    const dropped = layerOf({ ...gpt2, attn_pdrop: 0.1, resid_pdrop: 0.1 });
    expect(operators(dropped.forward)).toEqual([
      'Add: 2',
      'Attention: 1',
      'Dropout: 2',
      'LayerNormalization: 2',
      'MatMul: 4',
    ]);
    expect(operators(dropped.inference)).toEqual(operators(inference));
  });
});

describe('a layer of Llama', () => {
  it.each([false, true])('is products, attention and norms (padding: %s)', (mask) => {
    const { forward, backward, inference } = layerOf(llama, mask);
    const expected = ['Attention: 1', 'MatMul: 7', 'RMSNormalization: 2'];
    expect(operators(forward)).toEqual(expected);
    expect(operators(inference)).toEqual(expected);
    expect(operators(backward!)).toEqual([
      'Accumulate: 2',
      'AttentionGrad: 1',
      'MatMul: 7',
      'MatMulAccumulate: 7',
      'RMSNormalization: 2',
      'RMSNormalizationGrad: 2',
      'SiluMulGrad: 1',
    ]);
  });
});
