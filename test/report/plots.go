package main

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"

	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Colours that remain distinct with colour blindness (Okabe and Ito).
var (
	blue   = color.RGBA{0, 114, 178, 255}
	orange = color.RGBA{230, 159, 0, 255}
	green  = color.RGBA{0, 158, 115, 255}
	red    = color.RGBA{213, 94, 0, 255}
	purple = color.RGBA{204, 121, 167, 255}
	grey   = color.RGBA{120, 120, 120, 255}
)

const mebibyte = 1 << 20

// newPlot returns a plot on white, which is readable on a dark page.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size = 13
	p.Title.Padding = 6
	p.Legend.Top = true
	p.Legend.Padding = 2
	p.X.Tick.Marker, p.Y.Tick.Marker = plainTicks{}, plainTicks{}
	p.Y.Min = 0
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{225}, color.Gray{240}
	p.Add(grid)
	return p
}

// line adds a line with a legend. Points are marked where there are few.
func line(p *plot.Plot, name string, colour color.Color, points plotter.XYs) error {
	const few = 20
	drawn, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	drawn.Color, drawn.Width = colour, 1.5
	p.Add(drawn)
	if len(points) <= few {
		marks, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		marks.Color, marks.Shape, marks.Radius = colour, draw.CircleGlyph{}, 3
		p.Add(marks)
	}
	p.Legend.Add(name, drawn)
	return nil
}

// plainTicks are the usual ones, labelled without needless decimals.
type plainTicks struct{}

func (plainTicks) Ticks(least, most float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(least, most)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = strconv.FormatFloat(ticks[i].Value, 'f', -1, 64)
		}
	}
	return ticks
}

func save(p *plot.Plot, file string) error { return p.Save(22*vg.Centimeter, 9*vg.Centimeter, file) }

// labelled returns ticks at given values.
func labelled(values []float64, label func(float64) string) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for _, value := range values {
		ticks = append(ticks, plot.Tick{Value: value, Label: label(value)})
	}
	return ticks
}

func drawMemory(a *all, file string) error {
	p := newPlot("Memory of the managers against stored, finished events", "stored events", "MiB")
	series := []struct {
		name   string
		colour color.Color
		of     func(figures.Level) int64
	}{
		{"leader, after a load", blue, func(l figures.Level) int64 { return l.Leader.RSS }},
		{"leader, idle", green, func(l figures.Level) int64 { return l.LeaderIdle.RSS }},
		{"other replica", orange, func(l figures.Level) int64 { return l.Follower.RSS }},
		{"leader, without pages of the program", purple, func(l figures.Level) int64 { return l.Leader.Anonymous }},
		{"leader, Go heap", grey, func(l figures.Level) int64 { return l.Leader.Heap }},
	}
	var levels []float64
	for _, level := range a.Memory.Figures.Levels {
		levels = append(levels, float64(level.Stored))
	}
	for _, one := range series {
		var points plotter.XYs
		for _, level := range a.Memory.Figures.Levels {
			value := float64(one.of(level)) / mebibyte
			points = append(points, plotter.XY{X: float64(level.Stored), Y: value})
			p.Y.Max = max(p.Y.Max, 1.5*value) // room for the legend
		}
		if err := line(p, one.name, one.colour, points); err != nil {
			return err
		}
	}
	p.X.Min = 0
	p.X.Tick.Marker = labelled(levels, func(value float64) string { return thousands(int(value)) })
	return save(p, file)
}

func drawBacklog(a *all, file string) error {
	backlog := a.Backlog.Figures
	p := newPlot(fmt.Sprintf("%s pending events; the sink recovers at 0", thousands(backlog.Events+backlog.More)), "seconds", "pending events")
	var pending, waiting plotter.XYs
	for _, sample := range backlog.Drain {
		pending = append(pending, plotter.XY{X: sample.At, Y: float64(sample.Pending)})
		waiting = append(waiting, plotter.XY{X: sample.At, Y: float64(sample.Waiting)})
	}
	p.X.Min = 0
	if err := errors.Join(line(p, "not finished, by the leader's count", blue, pending), line(p, "not delivered", orange, waiting)); err != nil {
		return err
	}
	return save(p, file)
}

func drawSoak(a *all, file string) error {
	soak := a.Soak.Figures
	p := newPlot(fmt.Sprintf("%g deliveries a second: memory", soak.Rate), "minutes", "MiB")
	var leader, other, heap plotter.XYs
	for _, sample := range soak.Samples {
		at := sample.At / 60
		leader = append(leader, plotter.XY{X: at, Y: float64(sample.Replicas[sample.Leader].RSS) / mebibyte})
		other = append(other, plotter.XY{X: at, Y: float64(sample.Replicas[1-sample.Leader].RSS) / mebibyte})
		heap = append(heap, plotter.XY{X: at, Y: float64(sample.Replicas[sample.Leader].Heap) / mebibyte})
		p.Y.Max = max(p.Y.Max, 1.35*leader[len(leader)-1].Y)
	}
	for _, one := range []struct {
		name   string
		colour color.Color
		points plotter.XYs
	}{{"leader", blue, leader}, {"other replica", orange, other}, {"leader, Go heap, garbage included", grey, heap}} {
		if err := line(p, one.name, one.colour, one.points); err != nil {
			return err
		}
	}
	p.X.Min = 0
	return save(p, file)
}

// drawAnswers draws the distribution of answer times.
func drawAnswers(a *all, file string) error {
	p := newPlot("Distribution of answer times", "quantile", "milliseconds")
	levels := a.Memory.Figures.Levels
	burst := levels[len(levels)-1]
	series := []struct {
		name      string
		colour    color.Color
		quantiles []figures.Quantile
	}{
		{fmt.Sprintf("steady, %g a second", a.Soak.Figures.Rate), blue, a.Soak.Figures.Answers},
		{fmt.Sprintf("%s at full speed, 64 concurrent", thousands(burst.Verdict.Sent)), orange, burst.Answers},
		{"chaos, stored", green, a.Chaos.Figures.Answers},
		{"chaos, refused", red, a.Chaos.Figures.Refusals},
	}
	// The interesting quantiles are close to 1: each step on the axis is ten times closer.
	position := func(quantile float64) float64 { return min(-math.Log10(1-quantile), 4) }
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, labelled([]float64{1, 10, 100, 1000, 10_000}, func(value float64) string { return thousands(int(value)) })
	p.Y.Min, p.Y.Max = 1, 10_000
	for _, one := range series {
		var points plotter.XYs
		for _, quantile := range one.quantiles {
			points = append(points, plotter.XY{X: position(quantile.Quantile), Y: max(quantile.Milliseconds, 1)})
		}
		if len(points) == 0 {
			continue
		}
		if err := line(p, one.name, one.colour, points); err != nil {
			return err
		}
	}
	p.Legend.Top, p.Legend.Left = true, true
	p.X.Tick.Marker = plot.ConstantTicks{
		{Value: position(0.5), Label: "50 %"},
		{Value: position(0.9), Label: "90 %"},
		{Value: position(0.99), Label: "99 %"},
		{Value: position(0.999), Label: "99.9 %"},
		{Value: position(1), Label: "all"},
	}
	return save(p, file)
}

// drawChaos draws cumulative counts, and below them the faults, a row per kind. The vertical distance of two lines is the backlog.
func drawChaos(a *all, file string) error {
	chaos := a.Chaos.Figures
	p := newPlot("Two replicas under fault injection: cumulative counts", "seconds", "total")
	names := []string{}
	for _, fault := range chaos.Faults {
		if !slices.Contains(names, fault.Kind) {
			names = append(names, fault.Kind)
		}
	}
	slices.Sort(names)
	var sum figures.Second
	var stored, refused, delivered plotter.XYs
	for i, second := range chaos.Seconds {
		at := float64(i + 1)
		sum.Stored, sum.Refused, sum.Delivered = sum.Stored+second.Stored, sum.Refused+second.Refused, sum.Delivered+second.Delivered
		stored = append(stored, plotter.XY{X: at, Y: float64(sum.Stored)})
		refused = append(refused, plotter.XY{X: at, Y: float64(sum.Refused)})
		delivered = append(delivered, plotter.XY{X: at, Y: float64(sum.Delivered)})
	}
	highest := float64(max(sum.Stored, sum.Refused, sum.Delivered))
	row := highest / 14
	p.Y.Min = -row * (float64(len(names)) + 0.5)
	ticks := []plot.Tick{}
	for _, tick := range (plainTicks{}).Ticks(0, highest) {
		if tick.Value >= 0 {
			ticks = append(ticks, tick)
		}
	}
	for _, fault := range chaos.Faults {
		top := -row * (float64(slices.Index(names, fault.Kind)) + 0.6)
		bottom, to := top-0.8*row, max(fault.To, fault.From+float64(len(chaos.Seconds))/300) // a kill has no duration, but must be visible
		box, err := plotter.NewPolygon(plotter.XYs{{X: fault.From, Y: top}, {X: to, Y: top}, {X: to, Y: bottom}, {X: fault.From, Y: bottom}})
		if err != nil {
			return err
		}
		box.Color, box.LineStyle.Width = grey, 0
		p.Add(box)
	}
	for i, name := range names {
		ticks = append(ticks, plot.Tick{Value: -row * (float64(i) + 1), Label: name})
	}
	p.Y.Tick.Marker = plot.ConstantTicks(ticks)
	for _, one := range []struct {
		name   string
		colour color.Color
		points plotter.XYs
	}{{"answered with 200", green, stored}, {"refused, or no answer", red, refused}, {"delivered to the sink", blue, delivered}} {
		if err := line(p, one.name, one.colour, one.points); err != nil {
			return err
		}
	}
	p.Y.Max = 1.3 * highest
	p.X.Min = 0
	return p.Save(26*vg.Centimeter, 13*vg.Centimeter, file)
}
