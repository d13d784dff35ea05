/** The typed binding: the only importer of the .node file. */
export type * from './contract.ts';
export { engineCodes } from './engine-codes.ts';
export { isNativeError, type NativeError, renderNativeError } from './native-error.ts';
export { addonFile, loadAddon } from './load.ts';
export { requireMpiModule } from './mpi-module.ts';
