package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"trackside.test/interop/api"
	"trackside.test/interop/opendata"
)

// shortBytes is the length up to which content is told byte by byte; longer content is told as one byte and a count.
const shortBytes = 64

// Described is a packet as the scenario describes it and as a read tells it. 64-bit numbers are texts.
type Described struct {
	Stream        string  `json:"stream,omitempty"`
	InSession     bool    `json:"in_session,omitempty"`
	ID            string  `json:"id"`
	Type          string  `json:"type"`
	SessionKey    string  `json:"session_key"`
	Essential     bool    `json:"essential"`
	Content       Content `json:"content"`
	HasSubmitTime bool    `json:"has_submit_time"`
}

// Content has one of its kinds set; Fill and Count are one kind.
type Content struct {
	Bytes      *string     `json:"bytes,omitempty"`
	Fill       *int        `json:"fill,omitempty"`
	Count      *int        `json:"count,omitempty"`
	Marker     *Marker     `json:"marker,omitempty"`
	Event      *Event      `json:"event,omitempty"`
	Periodic   *Periodic   `json:"periodic,omitempty"`
	Definition *Definition `json:"definition,omitempty"`
}

type Marker struct {
	Timestamp string `json:"timestamp"`
	EndTime   string `json:"end_time"`
	Label     string `json:"label"`
	Value     string `json:"value"`
}

type Event struct {
	Numbered  bool      `json:"numbered"`
	Event     string    `json:"event"`
	Timestamp string    `json:"timestamp"`
	Values    []float64 `json:"values"`
}

type Periodic struct {
	Numbered   bool        `json:"numbered"`
	Parameters []string    `json:"parameters"`
	StartTime  string      `json:"start_time"`
	Interval   uint32      `json:"interval"`
	Columns    [][]float64 `json:"columns"`
}

type Definition struct {
	Number     string   `json:"number"`
	Type       string   `json:"type"`
	Parameters []string `json:"parameters"`
	Event      string   `json:"event"`
}

// Numbers holds the data format identifiers of the scenario's lists and event, and the way back by asking the server.
type Numbers struct {
	ofList      map[string]uint64
	ofEvent     map[string]uint64
	lookUpList  func(uint64) []string
	lookUpEvent func(uint64) string
}

func listKey(names []string) string {
	return strings.Join(names, "\n")
}

func encode(described Described, numbers *Numbers) *opendata.Packet {
	return &opendata.Packet{
		Type:        described.Type,
		Id:          unsigned(described.ID),
		SessionKey:  described.SessionKey,
		IsEssential: described.Essential,
		Content:     encodeContent(described.Content, numbers),
	}
}

func encodeContent(content Content, numbers *Numbers) []byte {
	switch {
	case content.Bytes != nil:
		return must(hex.DecodeString(*content.Bytes))
	case content.Fill != nil:
		return bytes.Repeat([]byte{byte(*content.Fill)}, *content.Count)
	case content.Marker != nil:
		return must(proto.Marshal(encodeMarker(content.Marker)))
	case content.Event != nil:
		return must(proto.Marshal(encodeEvent(content.Event, numbers)))
	case content.Periodic != nil:
		return must(proto.Marshal(encodePeriodic(content.Periodic, numbers)))
	}
	panic("a packet of no kind")
}

func encodeMarker(marker *Marker) *opendata.MarkerPacket {
	return &opendata.MarkerPacket{
		Timestamp: unsigned(marker.Timestamp),
		EndTime:   unsigned(marker.EndTime),
		Label:     marker.Label,
		Value:     signed(marker.Value),
	}
}

func encodeEvent(event *Event, numbers *Numbers) *opendata.EventPacket {
	format := &opendata.EventDataFormat{Format: &opendata.EventDataFormat_EventIdentifier{EventIdentifier: event.Event}}
	if event.Numbered {
		number := numbers.ofEvent[event.Event]
		format.Format = &opendata.EventDataFormat_DataFormatIdentifier{DataFormatIdentifier: number}
	}
	return &opendata.EventPacket{DataFormat: format, Timestamp: unsigned(event.Timestamp), RawValues: event.Values}
}

func encodePeriodic(periodic *Periodic, numbers *Numbers) *opendata.PeriodicDataPacket {
	list := &opendata.ParameterList{ParameterIdentifiers: periodic.Parameters}
	format := &opendata.SampleDataFormat{Format: &opendata.SampleDataFormat_ParameterIdentifiers{ParameterIdentifiers: list}}
	if periodic.Numbered {
		number := numbers.ofList[listKey(periodic.Parameters)]
		format.Format = &opendata.SampleDataFormat_DataFormatIdentifier{DataFormatIdentifier: number}
	}
	packet := &opendata.PeriodicDataPacket{
		DataFormat: format,
		StartTime:  unsigned(periodic.StartTime),
		Interval:   periodic.Interval,
	}
	for _, values := range periodic.Columns {
		packet.Columns = append(packet.Columns, encodeColumn(values))
	}
	return packet
}

func encodeColumn(values []float64) *opendata.SampleColumn {
	list := &opendata.DoubleSampleList{}
	for _, value := range values {
		sample := &opendata.DoubleSample{Value: value, Status: opendata.DataStatus_DATA_STATUS_VALID}
		list.Samples = append(list.Samples, sample)
	}
	return &opendata.SampleColumn{List: &opendata.SampleColumn_DoubleSamples{DoubleSamples: list}}
}

// describe tells what was read, in the scenario's words, without its stream.
func describe(response *api.PacketResponse, numbers *Numbers) Described {
	packet := response.GetPacket()
	return Described{
		ID:            fmt.Sprint(packet.GetId()),
		Type:          packet.GetType(),
		SessionKey:    packet.GetSessionKey(),
		Essential:     packet.GetIsEssential(),
		Content:       describeContent(packet, numbers),
		HasSubmitTime: response.GetSubmitTime().GetSeconds() > 0,
	}
}

func describeContent(packet *opendata.Packet, numbers *Numbers) Content {
	switch packet.GetType() {
	case "Marker":
		return Content{Marker: describeMarker(decoded(packet, &opendata.MarkerPacket{}))}
	case "Event":
		return Content{Event: describeEvent(decoded(packet, &opendata.EventPacket{}), numbers)}
	case "PeriodicData":
		return Content{Periodic: describePeriodic(decoded(packet, &opendata.PeriodicDataPacket{}), numbers)}
	case "DataFormatDefinition":
		return Content{Definition: describeDefinition(decoded(packet, &opendata.DataFormatDefinitionPacket{}))}
	}
	return describeBytes(packet.GetContent())
}

func decoded[M proto.Message](packet *opendata.Packet, message M) M {
	check(proto.Unmarshal(packet.GetContent(), message))
	return message
}

func describeBytes(content []byte) Content {
	if len(content) <= shortBytes {
		text := hex.EncodeToString(content)
		return Content{Bytes: &text}
	}
	fill, count := -1, len(content)
	if bytes.Count(content, content[:1]) == count {
		fill = int(content[0])
	}
	return Content{Fill: &fill, Count: &count}
}

func describeMarker(marker *opendata.MarkerPacket) *Marker {
	return &Marker{
		Timestamp: fmt.Sprint(marker.GetTimestamp()),
		EndTime:   fmt.Sprint(marker.GetEndTime()),
		Label:     marker.GetLabel(),
		Value:     fmt.Sprint(marker.GetValue()),
	}
}

func describeEvent(event *opendata.EventPacket, numbers *Numbers) *Event {
	told := &Event{Timestamp: fmt.Sprint(event.GetTimestamp()), Values: listed(event.GetRawValues())}
	switch format := event.GetDataFormat().GetFormat().(type) {
	case *opendata.EventDataFormat_DataFormatIdentifier:
		told.Numbered, told.Event = true, numbers.lookUpEvent(format.DataFormatIdentifier)
	case *opendata.EventDataFormat_EventIdentifier:
		told.Event = format.EventIdentifier
	}
	return told
}

func describePeriodic(periodic *opendata.PeriodicDataPacket, numbers *Numbers) *Periodic {
	told := &Periodic{StartTime: fmt.Sprint(periodic.GetStartTime()), Interval: periodic.GetInterval()}
	switch format := periodic.GetDataFormat().GetFormat().(type) {
	case *opendata.SampleDataFormat_DataFormatIdentifier:
		told.Numbered, told.Parameters = true, numbers.lookUpList(format.DataFormatIdentifier)
	case *opendata.SampleDataFormat_ParameterIdentifiers:
		told.Parameters = format.ParameterIdentifiers.GetParameterIdentifiers()
	}
	for _, column := range periodic.GetColumns() {
		values := []float64{}
		for _, sample := range column.GetDoubleSamples().GetSamples() {
			values = append(values, sample.GetValue())
		}
		told.Columns = append(told.Columns, values)
	}
	return told
}

func describeDefinition(definition *opendata.DataFormatDefinitionPacket) *Definition {
	return &Definition{
		Number:     fmt.Sprint(definition.GetIdentifier()),
		Type:       definition.GetType().String(),
		Parameters: listed(definition.GetParameterIdentifiers().GetParameterIdentifiers()),
		Event:      definition.GetEventIdentifier(),
	}
}

// listed makes an empty list of a missing one, which JSON tells apart.
func listed[T any](found []T) []T {
	if found == nil {
		return []T{}
	}
	return found
}

func unsigned(text string) uint64 {
	return must(strconv.ParseUint(text, 10, 64))
}

func signed(text string) int64 {
	return must(strconv.ParseInt(text, 10, 64))
}
