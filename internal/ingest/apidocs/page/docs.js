SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "full",
  defaultModelsExpandDepth: 0,
  // A delivery has to be signed, which the page cannot do, so nothing can be sent from it.
  supportedSubmitMethods: [],
  validatorUrl: null,
});
