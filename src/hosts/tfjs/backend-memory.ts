import type { Core, Tensor } from './library.ts';

/**
 * Copies that TensorFlow.js's wasm backend makes needlessly: `dataSync` slices its memory, so that every step
 * would leave arrays of the size of all gradients and all variables to the garbage collector, which then stops a
 * rank, and whoever waits for it, every few steps.
 */
interface WasmBackend {
  readonly dataIdMap: { has(dataId: object): boolean };
  typedArrayFromHeap(tensor: Tensor): Float32Array;
}

/**
 * @returns the tensor's values, for a reader that keeps nothing: on wasm the backend's memory itself, which the
 * next operation may move
 */
export function lookAt(core: Core, tensor: Tensor): Float32Array {
  const { backend } = core.engine();
  if (core.getBackend() === 'wasm' && isWasm(backend) && backend.dataIdMap.has(tensor.dataId)) {
    return backend.typedArrayFromHeap(tensor);
  }
  return tensor.dataSync() as Float32Array;
}

/** Whether a new tensor has values of its own at once, and not the array that it was made of. */
export function copiesNewValues(core: Core): boolean {
  return core.getBackend() === 'wasm';
}

function isWasm(backend: unknown): backend is WasmBackend {
  const { dataIdMap, typedArrayFromHeap } = backend as Partial<WasmBackend>;
  return typeof typedArrayFromHeap === 'function' && typeof dataIdMap?.has === 'function';
}
