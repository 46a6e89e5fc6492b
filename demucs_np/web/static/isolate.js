// @ts-check
/**
 * Make this page isolated, so that threads can share memory: nothing to do where the host sets the headers; else a service worker sets
 * them, and the page loads once more. Resolves to whether it is isolated now.
 */
export async function isolate() {
  if (globalThis.crossOriginIsolated || !navigator.serviceWorker || navigator.serviceWorker.controller) return !!globalThis.crossOriginIsolated;
  try {
    await navigator.serviceWorker.register(new URL("./service-worker.js", import.meta.url));
    await navigator.serviceWorker.ready;
    location.reload();
    await new Promise(() => {}); // this page ends here
  } catch {
    // a private window, or a host without HTTPS: one thread
  }
  return false;
}
