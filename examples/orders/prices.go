package main

import "sync"

const (
	articles = 500
	offers   = 36_000
)

// offer is one supplier's price for an article.
type offer struct {
	article int
	cents   int64
}

// priceList holds what all suppliers ask.
//
// The mistake that this demo is about: the list never changes after newPriceList, so no lock is
// needed to read it (a sync.RWMutex would do if it changed now and then). With a sync.Mutex held
// over the whole look-up, orders wait for each other.
type priceList struct {
	mutex  sync.Mutex
	offers []offer
}

var prices = newPriceList()

func newPriceList() *priceList {
	list := &priceList{offers: make([]offer, offers)}
	for number := range list.offers {
		list.offers[number] = offer{article: number % articles, cents: 199 + int64(number*7919%9_000)}
	}
	return list
}

// priceOrder sums up the lines of an order, one order at a time.
func (list *priceList) priceOrder(lines int) int64 {
	list.mutex.Lock()
	defer list.mutex.Unlock()
	var total int64
	for line := 0; line < lines; line++ {
		total += int64(line%4+1) * list.linePrice(line%articles)
	}
	return total
}

// linePrice looks through all offers for the cheapest of an article.
func (list *priceList) linePrice(article int) int64 {
	cheapest := int64(-1)
	for _, each := range list.offers {
		if each.article == article && (cheapest < 0 || each.cents < cheapest) {
			cheapest = each.cents
		}
	}
	return cheapest
}
