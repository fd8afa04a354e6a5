// What `ddad-native/service` exports.
export { type AppOptions, createApp, defaultLimits, type ServiceLimits } from './app.js';
export { ServiceError, StartError } from './errors.js';
export { type ServiceOptions, startService } from './start.js';
