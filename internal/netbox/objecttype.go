package netbox

import "strings"

// jobModels maps the models that jobs run on to their applications. Up to NetBox 4.3 the body of a job event has the bare model and no URL.
var jobModels = map[string]string{
	"datasource":   "core",
	"report":       "extras",
	"reportmodule": "extras",
	"script":       "extras",
	"scriptmodule": "extras",
}

// objectType returns the object type and the model of an event. Bodies contain the object type from NetBox 4.4 on and the model up to 4.4;
// the application is taken from the object's URL, or from its object_type in Nautobot.
func objectType(event *Event, selfDescribed string) (objectType, model string) {
	if event.ObjectType != "" {
		last := event.ObjectType[strings.LastIndex(event.ObjectType, ".")+1:]
		return event.ObjectType, first(event.Model, last)
	}
	model = event.Model
	if model == "" {
		return "", ""
	}
	if app, ok := strings.CutSuffix(selfDescribed, "."+model); ok && isLabel(app) {
		return selfDescribed, model
	}
	if app := first(application(event.ObjectURL), jobModels[model]); app != "" {
		return app + "." + model, model
	}
	return "", model
}

// application returns the Django application of an object's URL: "dcim" of /api/dcim/sites/14/, "netbox_dns" of
// /api/plugins/netbox-dns/zones/1/. A plugin may use a base URL that differs from its name; then only the body has the application.
func application(url string) string {
	_, path, found := strings.Cut(url, "/api/")
	if !found {
		return ""
	}
	path, inPlugin := strings.CutPrefix(path, "plugins/")
	app, _, found := strings.Cut(path, "/")
	if inPlugin {
		app = strings.ReplaceAll(app, "-", "_")
	}
	if !found || !isLabel(app) {
		return ""
	}
	return app
}

// isLabel reports whether text is a valid label of a Django application.
func isLabel(text string) bool {
	return text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}
