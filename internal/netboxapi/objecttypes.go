package netboxapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Support says whether an object type has a feature.
type Support int

// The values of Support: an old NetBox may not say.
const (
	SupportUnknown Support = iota
	SupportYes
	SupportNo
)

// ObjectType is a model of NetBox.
type ObjectType struct {
	// Name is the name, for example dcim.site.
	Name string
	// Endpoint is the path of its list, for example /api/dcim/sites/, with the base path of NetBox. It is empty where the type has none, and
	// before NetBox 4.4.
	Endpoint string
	// HasEventRules says whether event rules may have the type. Before NetBox 4.4 only a token that may add event rules sees that.
	HasEventRules Support
}

const eventRulesFeature = "event_rules"

// ObjectTypes returns all object types, sorted by name. Any valid token may ask for them.
func (c *Client) ObjectTypes(ctx context.Context) ([]ObjectType, error) {
	status, err := c.known(ctx)
	if err != nil {
		return nil, err
	}
	path := "/api/extras/content-types/"
	switch {
	case status.Flavor == Nautobot:
	case status.AtLeast(4, 4):
		path = "/api/core/object-types/"
	case status.AtLeast(4, 0):
		path = "/api/extras/object-types/"
	}
	types, err := c.objectTypes(ctx, path)
	if err != nil {
		return nil, err
	}
	if status.Flavor == NetBox && status.AtLeast(3, 7) && !status.AtLeast(4, 4) {
		if err := c.addEventRules(ctx, types); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(types, func(a, b ObjectType) int { return strings.Compare(a.Name, b.Name) })
	return types, nil
}

func (c *Client) objectTypes(ctx context.Context, path string) ([]ObjectType, error) {
	const pageSize, maxPages = 1000, 100
	var types []ObjectType
	for range maxPages {
		r := request{method: http.MethodGet, path: path, query: url.Values{
			"limit": {strconv.Itoa(pageSize)}, "offset": {strconv.Itoa(len(types))},
		}}
		var page struct {
			Next    *string `json:"next"`
			Results []struct {
				App      string    `json:"app_label"`
				Model    string    `json:"model"`
				Features *[]string `json:"features"`
				Endpoint *string   `json:"rest_api_endpoint"`
			} `json:"results"`
		}
		if err := c.call(ctx, r, &page); err != nil {
			return nil, err
		}
		for _, result := range page.Results {
			if result.App == "" || result.Model == "" {
				return nil, c.malformed("an object type has no app_label or model")
			}
			found := ObjectType{Name: result.App + "." + result.Model}
			if result.Endpoint != nil {
				found.Endpoint = pathOf(*result.Endpoint)
			}
			if result.Features != nil {
				found.HasEventRules = SupportNo
				if slices.Contains(*result.Features, eventRulesFeature) {
					found.HasEventRules = SupportYes
				}
			}
			types = append(types, found)
		}
		if page.Next == nil || len(page.Results) == 0 {
			return types, nil
		}
	}
	return nil, c.malformed(fmt.Sprintf("the list of object types has more than %d pages", maxPages))
}

// addEventRules marks the types that event rules may have: the choices for the type of an event rule's action, which has the same
// restriction in NetBox 3.7 to 4.3 (extras/api/serializers). The types stay as they are where NetBox shows no choices, or all types.
func (c *Client) addEventRules(ctx context.Context, types []ObjectType) error {
	var options struct {
		Actions struct {
			Post struct {
				ActionType struct {
					Choices []struct {
						Value string `json:"value"`
					} `json:"choices"`
				} `json:"action_object_type"`
			} `json:"POST"`
		} `json:"actions"`
	}
	err := c.call(ctx, request{method: http.MethodOptions, path: eventRulesPath}, &options)
	if KindOf(err) == KindForbidden {
		return nil
	}
	if err != nil {
		return err
	}
	choices := map[string]bool{}
	for _, choice := range options.Actions.Post.ActionType.Choices {
		choices[choice.Value] = true
	}
	if len(choices) == 0 || choices["contenttypes.contenttype"] || choices["auth.permission"] {
		return nil
	}
	for i := range types {
		types[i].HasEventRules = SupportNo
		if choices[types[i].Name] {
			types[i].HasEventRules = SupportYes
		}
	}
	return nil
}

// malformed returns the error for an answer whose JSON is not what NetBox documents.
func (c *Client) malformed(what string) error {
	return c.fail(&Error{Kind: KindMalformed, Status: http.StatusOK, Message: "NetBox's answer is not what its API documents: " + what})
}

// pathOf returns the path of a URL in an answer, without its scheme and host; "" if it is not a path of the API.
func pathOf(text string) string {
	parsed, err := url.Parse(text)
	if err != nil || !isClean(parsed.Path) || !strings.Contains(parsed.Path, apiPrefix) {
		return ""
	}
	return parsed.EscapedPath()
}

// scalar returns an id, which is a number in NetBox and a text in Nautobot, as text.
func scalar(value json.RawMessage) (string, error) {
	var text string
	if err := json.Unmarshal(value, &text); err == nil && text != "" {
		return text, nil
	}
	var number int64
	if err := json.Unmarshal(value, &number); err != nil || isNull(value) {
		return "", fmt.Errorf("an id is neither a number nor a text")
	}
	return strconv.FormatInt(number, 10), nil
}
