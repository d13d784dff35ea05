/** Compression of gradients: what a config asks for. */
import type { DeepSpeedConfig } from '../../config/index.ts';
import type { CompressionRecipe } from './gradient-sums.ts';
import { shareOfTopK } from './share-of-top-k.ts';

export { type CompressionRecipe, GradientSums, gradientSumsBytes } from './gradient-sums.ts';

/** Null where gradients travel whole. */
export function compressionRecipe({ compression }: DeepSpeedConfig): CompressionRecipe | null {
  if (compression === null) return null;
  const { type, block_size: block, ratio, rank, start_step: startStep } = compression;
  switch (type) {
    case 'int8':
      return { compression: { type, block }, startStep };
    case 'topk': {
      const falling = { startStep, warmupSteps: compression.warmup_steps, ratio };
      const shareAt = (step: number) => shareOfTopK(falling, step);
      return { compression: { type, ratio: shareAt(startStep) }, startStep, shareAt };
    }
    case 'powersgd':
      return { compression: { type, rank }, startStep };
  }
}
