#pragma once
// How every file of bind/ includes N-API.
//
// worker.terminate() can stop JavaScript while one of our functions runs; from then on N-API refuses to throw. Without
// this definition node-addon-api answers that with a fatal error, which would take the whole process down.
#ifndef NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#endif
#include <napi.h>
