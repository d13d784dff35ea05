/** How the share of elements that topk sends falls at first, as in Deep Gradient Compression (Lin et al., arXiv 1712.01887, section 3.3): exponentially. */

/** Of the first steps, and what each stage leaves of it. */
const quarter = 1 / 4;

export interface FallingShare {
  /** Optimizer steps before anything is compressed. */
  readonly startStep: number;
  /** Then so many steps in stages of one length, of which the k-th sends 4⁻ᵏ, as long as that is above `ratio`. */
  readonly warmupSteps: number;
  readonly ratio: number;
}

/** What is sent at an optimizer step, counted from 0. */
export function shareOfTopK({ startStep, warmupSteps, ratio }: FallingShare, step: number): number {
  const stages = Math.ceil(Math.log(ratio) / Math.log(quarter)) - 1;
  const into = Math.max(0, step - startStep);
  if (stages < 1 || into >= warmupSteps) return ratio;
  return Math.max(ratio, quarter ** (1 + Math.floor((stages * into) / warmupSteps)));
}
