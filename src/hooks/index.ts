export * from './claims.ts';
export * from './events.ts';
export * from './host.ts';
export * from './lifecycle.ts';
export * from './stages.ts';
export * from './trace.ts';
