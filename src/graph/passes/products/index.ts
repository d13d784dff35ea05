/**
 * What lies between matrix products becomes part of them. Runs when gradients exist and it is settled
 * what is saved: on a segment's forward, backward and inference graph, each by itself.
 */
import type { TypedGraph } from '../rewrite.ts';
import { accumulateProducts } from './accumulate.ts';
import { extendProducts } from './extend.ts';
import { addResidualsToNorms } from './norm-residual.ts';
import { unifyProducts } from './product.ts';
import { absorbActivations } from './prologue.ts';
import { joinViews } from './views.ts';
import { Workbench } from './workbench.ts';

export function fuseProducts(typed: TypedGraph): TypedGraph {
  const bench = new Workbench(typed);
  joinViews(bench);
  unifyProducts(bench);
  // Gradients of weights first: what is added to a buffer must not become a residual.
  accumulateProducts(bench);
  bench.sweep();
  addResidualsToNorms(bench);
  extendProducts(bench);
  bench.sweep();
  absorbActivations(bench);
  joinViews(bench);
  return bench.finish();
}
