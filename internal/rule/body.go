package rule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/url"
	"slices"
	"strings"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

const (
	typeJSON = "application/json"
	typeForm = "application/x-www-form-urlencoded"
	typeText = "text/plain; charset=utf-8"
)

// Body is the template of the body of a request.
type Body struct {
	contentType string
	json        node // if contentType is typeJSON, and text and form are nil
	text        *Text
	form        map[string]*Text
}

func (c *compiler) body(path string, spec *v1alpha1.HTTPBody) *Body {
	given := 0
	for _, has := range []bool{spec.JSON != nil, spec.Text != "", len(spec.Form) > 0} {
		if has {
			given++
		}
	}
	if given != 1 {
		c.addError(path, errors.New("must have exactly one of json, text and form"))
		return nil
	}
	switch {
	case spec.JSON != nil:
		return &Body{contentType: typeJSON, json: c.node(path+".json", value(spec.JSON.Raw), nil)}
	case spec.Text != "":
		compiled := &Body{contentType: typeText, text: c.text(path+".text", spec.Text)}
		if spec.ContentType != "" {
			compiled.contentType = spec.ContentType
			if _, err := parseMediaType(spec.ContentType); err != nil {
				c.addError(path+".contentType", err)
			}
		}
		return compiled
	default:
		compiled := &Body{contentType: typeForm, form: map[string]*Text{}}
		for _, name := range slices.Sorted(maps.Keys(spec.Form)) {
			compiled.form[name] = c.text(fmt.Sprintf("%s.form[%s]", path, name), spec.Form[name])
		}
		return compiled
	}
}

// contentType refuses a Content-Type header that contradicts the body.
func (c *compiler) contentType(path string, spec *v1alpha1.HTTPAction) {
	at := slices.IndexFunc(spec.Headers, func(header v1alpha1.HTTPHeader) bool { return strings.EqualFold(header.Name, "Content-Type") })
	if at < 0 {
		return
	}
	path = fmt.Sprintf("%s.headers[%s]", path, spec.Headers[at].Name)
	mediaType, err := parseMediaType(spec.Headers[at].Value)
	isJSON := mediaType == typeJSON || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json")
	switch {
	case spec.Method == methodGet:
		c.addError(path, errors.New("a GET request has no body; remove the header"))
	case spec.Body != nil && spec.Body.Text != "":
		c.addError(path, errors.New("remove the header, and set body.contentType instead"))
	case err != nil:
		c.addError(path, fmt.Errorf("%w, or remove the header: the body has a type", err))
	case spec.Body != nil && len(spec.Body.Form) > 0 && mediaType != typeForm:
		c.addError(path, fmt.Errorf("is %s, but the body is a form; remove the header", mediaType))
	case (spec.Body == nil || spec.Body.JSON != nil) && !isJSON:
		c.addError(path, fmt.Errorf("is %s, but the body is JSON; remove the header, or set body.form or body.text", mediaType))
	}
}

func parseMediaType(text string) (string, error) {
	mediaType, _, err := mime.ParseMediaType(text)
	if err != nil || strings.Contains(text, "${") {
		return "", errors.New("must be a media type without expressions, such as text/csv; correct it")
	}
	return mediaType, nil
}

// Render returns the body and its content type. Its error begins with the path to the failed template.
func (b *Body) Render(ctx context.Context, in *Input) (body []byte, contentType string, err error) {
	remaining := budget(maxRendered)
	switch {
	case b.text != nil:
		text, err := b.text.asText(ctx, in, &remaining)
		if err != nil {
			return nil, "", fmt.Errorf("text: %w", err)
		}
		return []byte(text), b.contentType, nil
	case b.form != nil:
		values := url.Values{}
		for _, name := range slices.Sorted(maps.Keys(b.form)) {
			text, err := b.form[name].asText(ctx, in, &remaining)
			if err != nil {
				return nil, "", fmt.Errorf("form[%s]: %w", name, err)
			}
			values.Set(name, text)
		}
		return []byte(values.Encode()), b.contentType, nil
	default:
		r := renderer{in: in, remaining: remaining}
		rendered, err := r.render(ctx, b.json)
		if err != nil {
			return nil, "", fmt.Errorf("json%w", err)
		}
		var encoded bytes.Buffer
		encoder := json.NewEncoder(&encoded)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(rendered); err != nil {
			return nil, "", fmt.Errorf("json: %w", err)
		}
		return bytes.TrimSuffix(encoded.Bytes(), []byte("\n")), b.contentType, nil
	}
}
