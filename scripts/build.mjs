// `npm ci` and `npm test` both come here: the native engine first, then TypeScript.
await import('./build-addon.mjs').catch((error) => {
  console.error(error);
  process.exit(1);
});
await import('./build-ts.mjs');
